"""`sluice new` writes an inlet or an outlet to begin with: its flow, its deployment and its test, or nothing."""

import ast
import builtins
import importlib.util
import json
import keyword
import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import yaml
from rich.console import Console

from deployments.commands import new_templates as templates
from deployments.rollout.blueprint import Blueprint, import_flows, read_blueprint
from tasks.base.project_folder import PREFECT_YAML
from tasks.errors import SettingsError
from tasks.reservoir.topic_names import check_topic

__all__ = ["Kind", "new", "with_deployment"]

_INTERVAL = 600  # seconds between the runs of a new inlet

Kind = Literal["inlet", "outlet"]

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_LIVE = {"vitals": "machine", "memory": "memory"}
"""Topics by the shipped inlets that push to them: a new outlet reads one that is deployed, so it has results at once."""


def new(console: Console, kind: Kind, name: str, *, root: Path, topic: str | None = None) -> None:
    """Write the flow's file, `tests/test_NAME.py` and the deployment's block in `prefect.yaml`; print what to do next.

    root      the project: its own flows are in `pipelines/`, or in `flows/` if it has no such folder, as in a clone of Sluice
    topic     the topic that the inlet pushes to, by default one of its name; or the topic that the outlet reads, by
              default one of a shipped inlet
    raises    SettingsError: a name that is taken or has another meaning, no topic to read, or a `prefect.yaml` that cannot be
              added to. Nothing was written
    """
    blueprint = read_blueprint(root / PREFECT_YAML)
    home = templates.OWN if (root / templates.OWN.folder).is_dir() else templates.CLONE
    _check_name(kind, name, blueprint, home.folder)
    topic = check_topic(topic or (name if kind == "inlet" else _live_topic(blueprint)))
    flow, test, block = templates.INLET if kind == "inlet" else templates.OUTLET
    keep = _keep(topic, blueprint) if kind == "inlet" else ""
    text = blueprint.path.read_text()
    values = {"name": name, "topic": json.dumps(topic, ensure_ascii=False), "keep": keep, "offset": _free_offset(text)}
    files = {root / home.folder / f"{name}.py": flow, root / "tests" / f"test_{name}.py": test}
    written = {path: templates.filled(template, home, **values) for path, template in files.items()}
    _write(written, blueprint, with_deployment(text, templates.filled(block, home, **values), where=blueprint.path))
    for path in written:
        console.print(f"wrote {path.relative_to(root)}", highlight=False)
    console.print(f"added {name}/{name} to prefect.yaml", highlight=False)
    console.print(templates.next_steps(kind, home, name=name, topic=topic), highlight=False, soft_wrap=True)


def with_deployment(text: str, block: str, *, where: Path) -> str:
    """Return the text of a `prefect.yaml` with one more deployment after the others, otherwise unchanged.

    block     the deployment as an item of the list, without indentation
    raises    SettingsError: it has no block list of deployments, or lacks a definition that the block refers to
    """
    try:
        end, indent = _end_of_deployments(text)
        lines = [f"{' ' * indent}{line}".rstrip() for line in block.splitlines()]
        made = "\n".join([text[:end].rstrip("\n"), "", *lines, text[end:]])
        before, after = yaml.safe_load(text), yaml.safe_load(made)
    except (yaml.YAMLError, ValueError) as error:
        msg = (
            f"{where}: expected a block list under 'deployments:' and the shipped definitions (inlet, outlet, "
            f"every_10_minutes), got something else ({' '.join(str(error).split())}); nothing was written; add the block by hand"
        )
        raise SettingsError(msg) from error
    assert {**after, "deployments": after["deployments"][:-1]} == before, "the others are as they were"
    return made


def _end_of_deployments(text: str) -> tuple[int, int]:
    """Return the end of the last deployment, and the indentation of the list's items."""
    pairs = yaml.compose(text, Loader=yaml.SafeLoader).value
    nth = [key.value for key, _ in pairs].index("deployments")
    deployments = pairs[nth][1]
    if not isinstance(deployments, yaml.SequenceNode) or deployments.flow_style or not deployments.value:
        msg = f"line {deployments.start_mark.line + 1}"
        raise ValueError(msg)
    lines = text[: pairs[nth + 1][0].start_mark.index if pairs[nth + 1 :] else len(text)].splitlines(keepends=True)
    while not lines[-1].strip() or lines[-1].startswith("#"):  # of the following text
        lines.pop()
    return sum(map(len, lines)), deployments.start_mark.column


def _live_topic(blueprint: Blueprint) -> str:
    deployed = {each.function for each in blueprint.deployments}
    if found := next((topic for inlet, topic in _LIVE.items() if inlet in deployed), None):
        return found
    msg = "expected --topic, the topic that the outlet reads: prefect.yaml has no shipped inlet whose topic it could read; nothing was written"
    raise SettingsError(msg)


def _check_name(kind: Kind, name: str, blueprint: Blueprint, folder: str) -> None:
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        msg = f"expected a name of up to 40 small letters, digits and '_', a letter first, got {name!r}; it becomes a function's name"
        raise SettingsError(msg)
    for path in (Path(folder, f"{name}.py"), Path("tests", f"test_{name}.py")):
        if (blueprint.path.parent / path).exists():
            msg = f"{path} is there already; nothing was written; choose another name"
            raise SettingsError(msg)
    if name in {each.function for each in blueprint.deployments}:
        msg = f"prefect.yaml has a deployment of a flow {name!r} already; nothing was written; choose another name"
        raise SettingsError(msg)
    # Prefect loads a flow's file as a module of that name, before any other module of that name.
    if hasattr(builtins, name) or name in sys.stdlib_module_names or importlib.util.find_spec(name):
        msg = f"{name!r} is a name of Python's or of a module here, which {folder}/{name}.py would hide; choose another, such as {f'{name}_{kind}'!r}"
        raise SettingsError(msg)
    if name in _names_in(templates.INLET[:2] if kind == "inlet" else templates.OUTLET[:2]):
        msg = f"{name!r} is a name that the new files use for something else; choose another, such as {f'{name}_{kind}'!r}"
        raise SettingsError(msg)


def _names_in(sources: Iterable[str]) -> set[str]:
    """Return the names that templates use or define, other than the new flow's."""
    placeholder = "_"
    nodes = [
        node
        for source in sources
        for node in ast.walk(
            ast.parse(templates.filled(source, templates.OWN, name=placeholder, topic="''", keep="", offset=""))
        )
    ]
    names: list[Any] = [getattr(node, of, None) for node in nodes for of in ("id", "name", "arg", "asname")]
    return {name for name in names if isinstance(name, str)} - {placeholder}


def _keep(topic: str, blueprint: Blueprint) -> str:
    """Return the argument `keep` that other inlets of the topic have, because all must declare the same; '' without it."""
    _, errors = import_flows(
        str(blueprint.path.parent / each.entrypoint) if ":" in each.entrypoint else each.entrypoint
        for each in blueprint.deployments
        if "inlet" in each.tags
    )
    if errors:
        msg = f"expected inlets that can be imported, got: {'; '.join(errors)}; nothing was written; mend them first"
        raise SettingsError(msg)
    from flows.runtime.declared_keeps import declared_keep  # noqa: PLC0415 - filled by the import above

    if (kept := declared_keep(topic)) is None:
        return ""
    waits = ', when_full="wait"' if kept.when_full == "wait" else ""
    return f', keep="{str(kept).removesuffix(" (wait)")}"{waits}'


def _free_offset(text: str) -> str:
    """Return the offset in ten minutes that is farthest from the starts of other schedules, as 'MM:SS'.

    Simultaneous starts compete for the CPU.
    """
    used = {0}
    for deployment in yaml.safe_load(text)["deployments"]:
        for schedule in deployment.get("schedules") or ():
            if "anchor_date" in schedule and (interval := schedule.get("interval")):
                first = round(datetime.fromisoformat(str(schedule["anchor_date"])).timestamp())
                used |= {(first + n * interval) % _INTERVAL for n in range(max(1, _INTERVAL // interval))}
    free = max(
        range(_INTERVAL), key=lambda offset: min(min((offset - u) % _INTERVAL, (u - offset) % _INTERVAL) for u in used)
    )
    return f"{free // 60:02}:{free % 60:02}"


def _write(files: Mapping[Path, str], blueprint: Blueprint, text: str) -> None:
    """Write the new files and the new text of `prefect.yaml`, or nothing."""
    beside = blueprint.path.with_name(f".{blueprint.path.name}.new")
    written: list[Path] = []
    try:
        for path, content in {**files, beside: text}.items():
            with path.open("x") as file:
                written.append(path)
                file.write(content)
        shutil.copymode(blueprint.path, beside)
        known = read_blueprint(beside).deployments
        assert known[:-1] == blueprint.deployments, "the others are as they were"
        os.replace(beside, blueprint.path)  # noqa: PTH105 - so that a test can let the last step fail
    except OSError as error:
        _remove(written)
        msg = f"{error.filename or blueprint.path}: cannot be written ({error.strerror}); nothing was written"
        raise SettingsError(msg) from error
    except BaseException:
        _remove(written)
        raise


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
