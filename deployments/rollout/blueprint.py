"""The deployments in `prefect.yaml`: read, recognized as inlets and outlets, and imported as a check."""

import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn, TypeGuard

import yaml

from deployments.processes.forking import python
from deployments.rollout.flow_files import import_each_file_once
from tasks.base.plain_text import one_line
from tasks.base.project_folder import CODE
from tasks.errors import SettingsError

__all__ = ["Blueprint", "Deployment", "EntrypointCheck", "allowance", "import_flows", "read_blueprint"]

_MARK = "\x1e"
_QUOTED = 200  # characters of a refused value in a message
_LONGEST = 100 * 366 * 86_400  # seconds between two runs
_SOON = 1800  # seconds; a rarer schedule is no beat: its first run can wait for its time


@dataclass(frozen=True, slots=True)
class Deployment:
    """One deployment as `prefect.yaml` has it."""

    name: str
    entrypoint: str
    flow: str  # the flow's name; '' until the entrypoint was imported
    tags: frozenset[str]
    slugs: frozenset[str]  # of its schedules
    interval: float | None  # seconds, of the first schedule with one
    unanchored: frozenset[str] = frozenset()  # slugs of schedules with an interval and no anchor date

    @property
    def full_name(self) -> str:
        """Its name as Prefect's commands take it, such as 'quotes/quotes'."""
        return f"{self.flow}/{self.name}"

    @property
    def function(self) -> str:
        """The name of its flow's function in the file or module of the entrypoint."""
        return _parts(self.entrypoint)[1]

    @property
    def stays_up(self) -> bool:
        """Whether it must always run: it is an outlet without a schedule."""
        return "outlet" in self.tags and not self.slugs

    @property
    def beats(self) -> bool:
        """Whether it is an inlet with a frequent schedule."""
        return "inlet" in self.tags and self.interval is not None and self.interval <= _SOON


@dataclass(frozen=True, slots=True)
class Blueprint:
    """All deployments of one `prefect.yaml`."""

    path: Path
    deployments: tuple[Deployment, ...]

    def named(self, flows: Mapping[str, str]) -> "Blueprint":
        """Return the blueprint with the flows' names, from a mapping of entrypoints to names.

        raises    SettingsError: two deployments have one name. On the server one would replace the other; Prefect says
                  nothing (3.9.1)
        """
        named = tuple(replace(each, flow=flows[each.entrypoint]) for each in self.deployments)
        points: dict[str, list[str]] = {}
        for each in named:
            points.setdefault(each.full_name, []).append(each.entrypoint)
        for name, several in points.items():
            if len(several) > 1:
                msg = (
                    f"{self.path}: expected a deployment {name} once, got it from {' and '.join(several)}; "
                    "give one another name (`name: second`), or its function"
                )
                raise SettingsError(msg)
        return replace(self, deployments=named)


def read_blueprint(path: Path) -> Blueprint:
    """Read the `prefect.yaml` at `path`.

    raises    SettingsError: the file is missing or no YAML, or a deployment has an invalid name, entrypoint, tag or schedule
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        msg = f"expected the deployments in {path}, found no such file"
        raise SettingsError(msg) from error
    except OSError as error:
        msg = f"expected the deployments in {path}, got no file that can be read: {error.strerror}"
        raise SettingsError(msg) from error
    # ValueError: not UTF-8, or an invalid date or number, which PyYAML does not report as its own error.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        msg = f"{path}: expected YAML, got this instead: {one_line(error, _QUOTED)}"
        raise SettingsError(msg) from error
    blocks = raw.get("deployments") if isinstance(raw, dict) else None
    if not isinstance(blocks, list):
        _refuse(f"{path}: deployments", "a list", blocks)
    return Blueprint(path, tuple(_deployment(path, position, block) for position, block in enumerate(blocks, 1)))


def _deployment(path: Path, position: int, block: object) -> Deployment:
    where = f"{path}: deployment {position}"
    if not isinstance(block, dict):
        _refuse(where, "a block with a name and an entrypoint such as 'flows/clock.py:seconds'", block)
    name, entrypoint = block.get("name"), block.get("entrypoint")
    if not _is_text(name):
        _refuse(f"{where}, name", "text, in quotes where YAML takes it for something else", name)
    if not _is_text(entrypoint) or not all(_parts(entrypoint)):
        _refuse(
            f"{where}, entrypoint",
            "a file and a function, such as 'flows/clock.py:seconds', or a module and a function, such as 'flows.upkeep.levels'",
            entrypoint,
        )
    where = f"{path}: tags of {entrypoint}"
    tags = block.get("tags") or []
    if not isinstance(tags, list) or not all(map(_is_text, tags)):
        _refuse(where, "a list of texts", tags)
    where = f"{path}: schedules of {entrypoint}"
    schedules = block.get("schedules") or []
    if not isinstance(schedules, list) or not all(isinstance(each, dict) for each in schedules):
        _refuse(where, "a list of schedules, each with its keys", schedules)
    for schedule in schedules:
        slug, interval = schedule.get("slug"), schedule.get("interval")
        if slug is not None and not _is_text(slug):
            _refuse(f"{where}, slug", "text, in quotes where YAML takes it for something else", slug)
        if interval is not None and not _is_above_zero(interval):
            _refuse(f"{where}, interval", "a number of seconds above zero", interval)
    return Deployment(
        name=name,
        entrypoint=entrypoint,
        flow="",
        tags=frozenset(tags),
        slugs=frozenset(schedule["slug"] for schedule in schedules if schedule.get("slug")),
        interval=next((float(each["interval"]) for each in schedules if each.get("interval") is not None), None),
        unanchored=frozenset(
            each["slug"]
            for each in schedules
            if each.get("slug") and each.get("interval") is not None and not each.get("anchor_date")
        ),
    )


def _parts(entrypoint: str) -> tuple[str, str]:
    """Return the file or module of an entrypoint, and the function: 'a/b.py:c' or 'a.b.c', as Prefect reads them."""
    where, _, function = entrypoint.rpartition(":" if ":" in entrypoint else ".")
    return where, function


def _is_text(value: object) -> TypeGuard[str]:
    # No NUL: a file's name and a process's argument cannot hold one.
    return isinstance(value, str) and bool(value.strip()) and "\0" not in value


def _is_above_zero(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _LONGEST


def _refuse(where: str, expected: str, got: object) -> NoReturn:
    msg = f"{where}: expected {expected}, got {one_line(repr(got), _QUOTED)}"
    raise SettingsError(msg)


def import_flows(entrypoints: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Import the flows; return their names by entrypoint, and a sentence for each failure.

    `prefect deploy` does not notice such failures: it reads the flow's name from the source (3.9.1).
    """
    from prefect.exceptions import MissingFlowError  # noqa: PLC0415 - a second; only the check needs Prefect
    from prefect.flows import load_flow_from_entrypoint  # noqa: PLC0415

    flows: dict[str, str] = {}
    reasons: dict[tuple[str, str], list[str]] = {}
    with import_each_file_once():
        for entrypoint in entrypoints:
            try:
                flows[entrypoint] = load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False).name
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's file can raise anything
                file, name = _parts(entrypoint)
                cause = error if isinstance(error, MissingFlowError) else error.__cause__ or error
                reason = _no_file(file) if ":" in entrypoint and not Path(file).exists() else _reason(cause)
                reasons.setdefault((file, reason), []).append(name)
    return flows, [f"{file}:{', '.join(names)}: {reason}" for (file, reason), names in reasons.items()]


def _no_file(file: str) -> str:
    return f"there is no {file}; if it was renamed, correct its entrypoint in prefect.yaml"


def _runner(entrypoint: str) -> str:
    """Return the call of `runpy` that imports what an entrypoint names."""
    return f'run_{"path" if ":" in entrypoint else "module"}("{_parts(entrypoint)[0]}")'


def _reason(error: BaseException) -> str:
    """Return the error and its place in the user's files."""
    if isinstance(error, SyntaxError):
        file, number, text = error.filename, error.lineno, error.msg
    else:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if _is_users(frame.filename)]
        file, number = (ours[-1].filename, ours[-1].lineno) if ours else (None, None)
        text = str(error)
    where = f" ({os.path.relpath(file)}, line {number})" if file else ""
    return " ".join(f"{type(error).__name__}: {text}{where}".split())


def _is_users(file: str) -> bool:
    """Return whether a file is the user's: not Python's, nor installed, nor Sluice's."""
    path = Path(file).resolve()
    made_with = [CODE / "tasks", *(CODE / "flows" / name for name in ("inlets.py", "outlets.py", "runtime"))]
    return (
        not file.startswith("<")  # <frozen importlib._bootstrap_external>
        and path.is_relative_to(Path.cwd().resolve())
        and "site-packages" not in path.parts
        and not any(path.is_relative_to(each) for each in made_with)
    )


def allowance(blueprint: Blueprint) -> float:
    """Return the maximum seconds for the import, or the deploy, of all deployments, by their number."""
    return 90 + 5.0 * len(blueprint.deployments)


class EntrypointCheck:
    """`import_flows` in a process of its own, in parallel with other work.

    A user's file may do anything when it is imported; that must not affect the supervisor.

    is_forked   whether the template of runs forks the process
    """

    def __init__(self, blueprint: Blueprint, *, env: Mapping[str, str], is_forked: bool = False) -> None:
        self._blueprint = blueprint
        self._answer = tempfile.TemporaryFile("w+")  # noqa: SIM115 - close() does
        self._process = subprocess.Popen(  # noqa: S603 - ourselves
            [*python(is_forked), __name__, *self._entrypoints],
            stdin=subprocess.DEVNULL,
            stdout=self._answer,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=env,
            cwd=blueprint.path.parent,
        )

    @property
    def _entrypoints(self) -> list[str]:
        return [deployment.entrypoint for deployment in self._blueprint.deployments]

    def result(self, *, timeout: float | None = None) -> Blueprint:
        """Wait for the end of the check, by default for its `allowance`; return the blueprint with the flows' names.

        raises    SettingsError: one or more cannot be imported, or two deployments have the same name
        """
        flows, errors = self.found(timeout=timeout)
        if errors:
            msg = f"{self._blueprint.path} names flows that cannot be imported: {'; '.join(errors)}"
            raise SettingsError(msg)
        return self._blueprint.named(flows)

    def found(self, *, timeout: float | None = None) -> tuple[dict[str, str], list[str]]:
        """Wait like `result`, and return the result of `import_flows`.

        raises    SettingsError: the process gave no answer
        """
        patience = allowance(self._blueprint) if timeout is None else timeout
        try:
            self._process.wait(patience)
            self._answer.seek(0)
            flows, errors = json.loads(self._answer.read().rpartition(_MARK)[2])
        except (subprocess.TimeoutExpired, ValueError) as error:
            code = self._process.poll()
            what = f"gave no answer within {patience:g} s" if code is None else f"ended without one (exit code {code})"
            msg = (
                f"{self._blueprint.path}: importing its flows {what}; "
                f"try it: python -c 'import runpy; runpy.{_runner(self._entrypoints[0])}'"
            )
            raise SettingsError(msg) from error
        finally:
            self.close()
        return flows, errors

    def close(self) -> None:
        """End the process and delete its output."""
        self._process.kill()
        self._process.wait()
        self._answer.close()


def _answer() -> None:
    # A user's file may print when it is imported: the answer follows the mark.
    print(_MARK + json.dumps(import_flows(sys.argv[1:])))  # noqa: T201 - the parent process reads it


if __name__ == "__main__":
    _answer()
