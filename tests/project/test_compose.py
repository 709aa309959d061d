"""compose.yaml has the settings of docs/machines.md, and the commands of this project."""

import re
import tomllib
from typing import Any

import pytest
import yaml

from tests.support.plain import ROOT

SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
MACHINES = (ROOT / "docs" / "machines.md").read_text()


def exported(heading: str) -> dict[str, str]:
    """Return the variables that a section of docs/machines.md exports."""
    section = MACHINES.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return dict(re.findall(r"^export (\w+)=(.*)$", section, flags=re.MULTILINE))


@pytest.mark.parametrize(("service", "heading"), [("server", "A server"), ("worker", "A worker on each machine")])
def test_service_has_the_settings_that_the_documents_name(service: str, heading: str) -> None:
    found, expected = SERVICES[service]["environment"], exported(heading)
    assert set(found) - {"PREFECT_API_AUTH_STRING"} == set(expected)
    fixed = {name: value for name, value in expected.items() if not re.search(r"[$:]", value) or value == "0.0.0.0"}
    assert {name: found[name] for name in fixed} == fixed


def test_containers_reach_no_network_but_the_server_on_this_machine() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert published == ["127.0.0.1:4200:4200"]


def test_image_starts_the_worker_and_installs_what_is_pinned() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert '"deployments.processes.worker", "--pool", "sluice"' in dockerfile
    assert "--constraint constraints.txt" in dockerfile
    [version] = re.findall(r"FROM python:3\.(\d+)", dockerfile)
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert required == ">=3.11,<3.15"
    assert 11 <= int(version) < 15
