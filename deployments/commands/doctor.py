"""`sluice doctor`: check everything that Sluice needs, and print a cure for each problem."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path

from rich.console import Console
from rich.text import Text

from deployments.checks.alarms import check_alarms
from deployments.checks.blocks import BlocksCheck
from deployments.checks.findings import Finding
from deployments.checks.installation import check_flows, check_install, check_names
from deployments.checks.orchestrator import check_prefect
from deployments.checks.redis_in_use import check_redis
from deployments.show.as_json import line
from tasks.base.project_folder import checkout

__all__ = ["doctor"]

_STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(console: Console, root: Path, *, as_json: bool = False) -> bool:
    """Print a line for each finding; return whether no check fails. Read-only.

    root      the folder of `prefect.yaml`
    """
    found: list[Finding] = []
    for finding in _all(root):
        found.append(finding)
        if as_json:
            print(line(asdict(finding)), flush=True)  # noqa: T201 - rich would wrap it
        else:
            console.print(_drawn(finding), soft_wrap=True)
    if not as_json:
        console.print(_sum(found), style="dim", highlight=False)
    return not any(each.level == "fail" for each in found)


def _all(root: Path) -> Iterator[Finding]:
    blocks = BlocksCheck(root)  # beside the other checks: the import of the flows takes seconds
    try:
        yield from chain(
            check_install(checkout()),
            check_names(root),
            check_redis(),
            check_alarms(),
            check_prefect(root),
            check_flows(root),
            blocks.result(),
        )
    finally:
        blocks.close()


def _drawn(finding: Finding) -> Text:
    do = f"; {finding.do}" if finding.do else ""
    return Text.assemble((f"{finding.level:5}", _STYLES[finding.level]), f"{finding.check:14} {finding.says}{do}")


def _sum(found: Iterable[Finding]) -> str:
    levels = [each.level for each in found]
    return f"{len(levels)} checks: {levels.count('fail')} fail, {levels.count('warn')} to look at"
