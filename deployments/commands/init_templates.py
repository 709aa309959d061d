"""Templates of `sluice init`: an inlet and an outlet, their tests, a test of `prefect.yaml`, and requirements."""

from importlib.resources import files

__all__ = ["EXAMPLES", "FILES", "IGNORED", "PREFECT_YAML", "REQUIREMENTS"]

_PACKAGE = '"""Flows of this project, one module for each subject. `sluice new` adds modules here."""\n'

_FLOWS = '''\
"""How full this machine's memory is, and its trend: replace both with what you poll and what you make of it."""

import psutil
from streamz import Stream

from sluice import has, inlet, outlet

__all__ = ["memory", "trend"]


@inlet(topic="memory", every="1s", keep="1h, 50MB")
def memory(scale: float = 1.0) -> dict[str, float]:
    """The share of this machine's memory that is in use, in percent.

    Args:
        scale: The value of one percent.
    """
    return {"used": scale * psutil.virtual_memory().percent}


@outlet(topics="memory", group="trend", into="trend")
def trend(source: Stream, over: int = 5) -> Stream:
    """Mean and change of the last values.

    Args:
        over: The number of values.
    """
    values = source.filter(has("used")).pluck("used")
    return values.sliding_window(over, return_partial=False).map(summary)


def summary(values: tuple[float, ...]) -> dict[str, float]:
    """Return the mean of the values, and the last one minus the first."""
    return {"mean": sum(values) / len(values), "change": values[-1] - values[0]}
'''

_FLOWS_TEST = '''\
"""What the inlet `memory` pumps, and what the outlet `trend` makes of it."""

from hypothesis import given
from hypothesis import strategies as st

from pipelines.memory import memory, summary, trend
from sluice.testing import Pushed, drain, entries, pumped

some = entries(used=st.floats(0, 100), note=st.text(), topics="memory")


@given(st.floats(0, 1e6))
def test_entry_is_one_number(scale: float) -> None:
    [entry] = pumped(memory.pump, scale=scale)
    assert list(entry) == ["used"]
    assert 0 <= entry["used"] <= 100 * scale


@given(some, st.integers(1, 4))
def test_each_window_gives_one_result_in_push_order(pushed: list[Pushed], over: int) -> None:
    run = drain(trend.build, pushed, over=over)
    used = [entry["used"] for entry in pushed if "used" in entry]
    windows = [tuple(used[first : first + over]) for first in range(len(used) - over + 1)]
    assert run.results == [summary(window) for window in windows]


@given(some)
def test_entries_without_a_value_are_acknowledged(pushed: list[Pushed]) -> None:
    run = drain(trend.build, pushed)
    others = [entry for entry in pushed if "used" not in entry]
    assert [entry for entry in run.acked if "used" not in entry] == others
'''

_DEPLOYMENTS_TEST = '''\
"""Every deployment of prefect.yaml names a flow that can be imported, with parameters that the flow takes."""

from pathlib import Path

import pytest
import yaml
from prefect.flows import load_flow_from_entrypoint

PROJECT = Path(__file__).resolve().parents[1]
DEPLOYMENTS = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda each: f"{each['entrypoint']}/{each['name']}")
def test_deployment_names_a_flow_and_its_parameters(deployment: dict) -> None:
    point = deployment["entrypoint"]  # "a/file.py:function" in this project, or "a.module.function"
    flow = load_flow_from_entrypoint(str(PROJECT / point) if ":" in point else point, use_placeholder_flow=False)
    assert set(deployment.get("parameters", {})) <= set(flow.parameters.properties)


def test_each_deployment_has_a_name_of_its_own() -> None:
    names = [(each["entrypoint"].replace(":", ".").rpartition(".")[2], each["name"]) for each in DEPLOYMENTS]
    assert len(set(names)) == len(names)
'''


_CONFTEST = '''\
"""Settings of the tests: no time limits, as the first example imports pandas and Arrow, and shared machines are slow."""

from hypothesis import HealthCheck, settings

settings.register_profile("sluice", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sluice")
'''


def _data(name: str) -> str:
    return files("deployments.commands").joinpath(name).read_text(encoding="utf-8")


PREFECT_YAML = _data("init_prefect.yaml")
EXAMPLES = _data("init_examples.yaml")
"""Deployments of the example flows, in the same list."""

REQUIREMENTS = """\
# Sluice, pinned, with what the tests need. To upgrade, install a newer one and change this line.
$requirement
"""

FILES = {
    "pipelines/__init__.py": _PACKAGE,
    "pipelines/memory.py": _FLOWS,
    "tests/conftest.py": _CONFTEST,
    "tests/test_memory.py": _FLOWS_TEST,
    "tests/test_prefect_yaml.py": _DEPLOYMENTS_TEST,
    ".github/workflows/sluice.yml": _data("init_workflow.yaml"),
}
"""The text of each file by its path in the project, other than `prefect.yaml` and `requirements.txt`."""

IGNORED = (".sluice/", "prefect.toml", ".venv/", "__pycache__/", ".hypothesis/", ".pytest_cache/")
"""Lines for `.gitignore`: `sluice up` keeps its data and login in the first, and its login in the second while it runs."""
