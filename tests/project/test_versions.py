"""Versions of libraries: pinned ones have a reason, and comments on workarounds name the versions that are tested."""

import re
import tomllib

import pytest

from tests.conftest import ROOT

# A comment names the version on which a workaround was last tried without; constraints.txt has the tested ones. Redis and Valkey
# are servers there, and clients in constraints.txt.
SERVERS = {"redis", "valkey"}
TESTED = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text().lower(), re.MULTILINE))


def named(text: str) -> list[tuple[str, str]]:
    """Return the packages of constraints.txt that a text names with a version, and these versions."""
    found = re.findall(r"\b([a-z][\w-]*)(?:'s)? (\d+(?:\.\d+)+)\b", text.lower())
    return [(name, version) for name, version in found if name in TESTED.keys() - SERVERS]


def test_versions_in_texts_are_found() -> None:
    assert named("streamz 0.6.6's nodes (Prefect 3.9.1), until Redis 7.0") == [
        ("streamz", "0.6.6"),
        ("prefect", "3.9.1"),
    ]


@pytest.mark.parametrize("folder", ["deployments", "flows", "tasks"])
def test_workarounds_name_the_tested_versions(folder: str) -> None:
    paths = [path for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".lua", ".yaml"}]
    found = [(path.name, *one) for path in paths for one in named(path.read_text())]
    assert found
    assert [one for one in found if not f"{TESTED[one[1]]}.".startswith(f"{one[2]}.")] == []


def test_exact_pins_are_those_of_constraints_and_have_a_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    pinned = dict(one.split("==") for one in tomllib.loads(text)["project"]["dependencies"] if "==" in one)
    assert set(pinned) == {"prefect", "streamz"}
    for name, version in pinned.items():
        assert TESTED[name] == version
        assert re.search(rf'"{name}=={re.escape(version)}", +# \S', text)
