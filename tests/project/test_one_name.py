"""The package `sluice`: it re-exports all public names of flows and tasks."""

import importlib
import subprocess
import sys

import flows
import sluice
import tasks
from sluice import testing


def test_names_of_sluice_are_the_objects_of_flows_and_tasks() -> None:
    assert {*flows.__all__, *tasks.__all__, "testing"} == set(sluice.__all__) <= set(dir(sluice))
    for name in set(sluice.__all__) - {"testing"}:
        home = flows if name in flows.__all__ else tasks
        assert getattr(sluice, name) is getattr(home, name)
    kit = importlib.import_module("tasks.testing")
    assert testing.__all__ == kit.__all__
    assert all(getattr(testing, name) is getattr(kit, name) for name in kit.__all__)


def test_sluice_imports_prefect_only_for_inlet_and_outlet() -> None:
    code = (
        "import sys, sluice; from sluice import Entry, Reservoir, has, testing; assert 'prefect' not in sys.modules; "
        "from sluice import inlet; assert 'prefect' in sys.modules; print(inlet.__module__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
    assert (done.stdout.strip(), done.stderr) == ("flows.inlets", "")


def test_sluice_has_no_other_names() -> None:
    assert not hasattr(sluice, "spring")
