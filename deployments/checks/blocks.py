"""The check of `sluice doctor` for the blocks of `prefect.yaml`: keys that Prefect ignores, and settings that do not fit the flow.

A process of its own imports the flows, because a user's file may do anything at its import.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from deployments.checks.findings import Finding, fine, warning
from deployments.rollout.blueprint import allowance, read_blueprint
from tasks.base.plain_text import one_line
from tasks.checks import seconds
from tasks.errors import SettingsError

__all__ = ["KEYS", "BlocksCheck", "problems_of"]

_STEPS = {"build", "push", "pull"}
KEYS: Mapping[str, frozenset[str]] = {
    "": frozenset({"name", "prefect-version", "definitions", "deployments", *_STEPS}),
    "deployment": frozenset(
        {
            "name", "version", "version_type", "tags", "description", "schedule", "schedules", "concurrency_limit", "flow_name",
            "entrypoint", "parameters", "enforce_parameter_schema", "work_pool", "triggers", "sla", *_STEPS,
        }
    ),
    "schedule": frozenset(
        {"slug", "interval", "cron", "rrule", "timezone", "anchor_date", "day_or", "parameters", "replaces"}
    ),
    "concurrency_limit": frozenset({"limit", "collision_strategy", "grace_period_seconds"}),
    "work_pool": frozenset({"name", "work_queue_name", "job_variables"}),
    "trigger": frozenset(
        {
            "type", "name", "description", "enabled", "parameters", "job_variables", "schedule_after", "match", "match_related",
            "after", "expect", "for_each", "posture", "threshold", "within", "metric", "require", "triggers",
        }
    ),
}  # fmt: skip
"""The keys that Prefect 3.9.1 reads in each kind of block. It ignores all others."""

_UNDO_A_PAUSE = frozenset({"active", "paused"})
"""Keys that Prefect reads, too; each deploy would undo a pause that was made in its UI."""

_RESTARTING = frozenset({"prefect.flow-run.Crashed", "prefect.flow-run.Failed"})

_LEAST_INTERVAL = 60  # seconds; more often, and Prefect leaves holes
_MARK = "\x1e"
_QUOTED = 300  # characters of an error

Problem = tuple[str, str]  # and its remedy


class BlocksCheck:
    """Imports the flows of `prefect.yaml` in a process of its own, which starts at once."""

    def __init__(self, root: Path) -> None:
        self._process: subprocess.Popen[str] | None = None
        with suppress(SettingsError):  # check_flows reports it
            self._blueprint = read_blueprint(root / "prefect.yaml")
            command = [sys.executable, "-c", f"from {__name__} import _answer; _answer()"]
            self._process = subprocess.Popen(  # noqa: S603 - ourselves
                command,
                cwd=root,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )

    def result(self) -> Iterator[Finding]:
        """Wait for the process; yield a warning for each problem. `check_flows` reports flows that cannot be imported."""
        if self._process is None:
            return
        try:
            answer, _ = self._process.communicate(timeout=allowance(self._blueprint))
            problems: list[Problem] = json.loads(answer.rpartition(_MARK)[2])
        except (subprocess.TimeoutExpired, ValueError):
            self.close()
            yield warning(
                "blocks", "the blocks of prefect.yaml could not be checked", "look at the check of the flow files"
            )
            return
        for problem, remedy in problems:
            yield warning("blocks", problem, remedy)
        if not problems:
            yield fine("blocks", f"all {len(self._blueprint.deployments)} blocks of prefect.yaml fit their flows")

    def close(self) -> None:
        """End the process if it still runs."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


def _answer() -> None:
    raw = yaml.safe_load(Path("prefect.yaml").read_text(encoding="utf-8"))
    print(_MARK + json.dumps(list(problems_of(raw))))  # noqa: T201 - its parent reads it


def problems_of(raw: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the problems of all blocks. Imports the flows from the current folder."""
    yield from _unknown("prefect.yaml", "", raw)
    for block in raw["deployments"]:
        where = f"{block['entrypoint'].rpartition(':')[2]}/{block['name']}"
        yield from _unknown(where, "deployment", block)
        for kind in ("concurrency_limit", "work_pool"):
            yield from _unknown(where, kind, block.get(kind))
        for schedule in block.get("schedules") or ():
            yield from _unknown(where, "schedule", schedule)
        for trigger in block.get("triggers") or ():
            yield from _unknown(where, "trigger", trigger)
        tags = set(block.get("tags") or ())
        if (flow := _flow(block["entrypoint"])) is not None:
            yield from _parameters(where, block, flow)
            if "inlet" in tags:
                yield from _of_inlet(where, block, flow)
            if "outlet" in tags:
                yield from _triggers(where, block, flow.name)


def _unknown(where: str, kind: str, block: Any) -> Iterator[Problem]:
    if not isinstance(block, Mapping):
        return
    keys = set(map(str, block))
    of = f" of a {kind}" if kind else ""
    if undoing := sorted(keys & _UNDO_A_PAUSE):
        yield (
            f"{where}: with the key {undoing[0]}{of}, each deploy undoes a pause that was made in the UI",
            "delete the key",
        )
    if unknown := sorted(keys - KEYS[kind] - _UNDO_A_PAUSE):
        yield f"{where}: Prefect ignores {', '.join(unknown)}, because there is no such key{of}", "correct or delete it"


def _flow(entrypoint: str) -> Any:
    from prefect.flows import load_flow_from_entrypoint  # noqa: PLC0415 - a second; only this check needs Prefect

    try:
        return load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)
    except (Exception, SystemExit):  # noqa: BLE001 - a user's file may raise anything; check_flows reports it
        return None


def _parameters(where: str, block: Mapping[str, Any], flow: Any) -> Iterator[Problem]:
    own = block.get("parameters") or {}
    variants = [
        own,
        *({**own, **each["parameters"]} for each in block.get("schedules") or () if each.get("parameters")),
    ]
    known = flow.parameters.properties
    for given in variants:
        if unknown := sorted(set(given) - set(known)):
            yield f"{where}: the flow has no parameter {', '.join(unknown)}", f"its parameters are {', '.join(known)}"
        elif (given or block.get("schedules")) and (error := _refused(flow, given)):
            yield f"{where}: its runs would be refused: {error}", "correct its parameters"


def _refused(flow: Any, given: Mapping[str, Any]) -> str:
    """Return why a run with these parameters would fail at once; '' if it would not, or if its form asks for more."""
    from prefect.exceptions import ParameterTypeError  # noqa: PLC0415 - see _flow

    missing = set(flow.parameters.required or ()) - set(given)
    if missing:
        return ""
    defaults = {name: one["default"] for name, one in flow.parameters.properties.items() if "default" in one}
    try:
        flow.validate_parameters({**defaults, **given})
    except (ParameterTypeError, ValueError) as error:
        return one_line(str(error), _QUOTED)
    return ""


def _of_inlet(where: str, block: Mapping[str, Any], flow: Any) -> Iterator[Problem]:
    schedules = block.get("schedules") or ()
    if not schedules:
        yield (
            f"{where}: an inlet without a schedule runs only if it is started by hand",
            "add `schedules:` to its block",
        )
    for schedule in schedules:
        if not schedule.get("slug"):
            yield (
                f"{where}: each deploy replaces a schedule without a slug, which undoes a pause",
                "give it a `slug:`",
            )
        options = {name: one.get("default") for name, one in flow.parameters.properties.items()}
        options |= {**(block.get("parameters") or {}), **(schedule.get("parameters") or {})}
        interval = schedule.get("interval")
        if interval is None or not options.get("every"):
            continue
        if interval < _LEAST_INTERVAL:
            yield (
                f"{where}: Prefect starts runs late or not at all at an interval of {interval:g} s",
                f"set interval to {_LEAST_INTERVAL} or more; `every` is the time between ticks",
            )
        try:
            window = seconds(options.get("window") or "", name="window")
        except SettingsError:  # reported as a parameter
            continue
        if window <= interval:
            yield (
                f"{where}: a run ends after {options['window']}, before the next one begins after {interval:g} s, so that ticks are missed",
                "set the parameter `window` to more than the interval",
            )


def _triggers(where: str, block: Mapping[str, Any], flow: str) -> Iterator[Problem]:
    if block.get("schedules"):
        return  # a replay at times, and no run that stays up
    name = block["name"]
    for trigger in block.get("triggers") or ():
        related = trigger.get("match_related") or ()
        roles: dict[str, set[str]] = {}
        for each in related if isinstance(related, list) else [related]:
            roles.setdefault(each.get("prefect.resource.role", ""), set()).add(each.get("prefect.resource.name", ""))
        wrong = [
            f"{role} {', '.join(sorted(names))}"
            for role, expected in (("flow", flow), ("deployment", name))
            if (names := roles.get(role, set())) and expected not in names
        ]
        if wrong:
            wrong_names = "; ".join(wrong)
            yield (
                f"{where}: one of its triggers follows runs of another deployment ({wrong_names})",
                "delete it: an automation runs all outlets again that crash",
            )
        elif _RESTARTING & set(trigger.get("expect") or ()):
            yield (
                f"{where}: its trigger runs it again after a crash, as an automation does for all outlets, so that a second run is cancelled",
                "delete the trigger",
            )
