"""ARCHITECTURE.md and CONTRIBUTING.md name only files, functions and keys that exist."""

import importlib
import re
from collections.abc import Iterator
from functools import reduce
from pathlib import Path

import pytest

from tasks.reservoir import keys
from tests.support.documents import ROOT, without_blocks

MAPS = [ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md"]

_PATH = re.compile(r"`((?:tasks|flows|deployments|tests|docs|benchmarks|findings|\.ci|\.github)/[\w./-]*)`")
# In a table or a sentence: `tasks/pump/run.py` `PumpRun.step`, `PumpRun.run`
_MEMBERS = re.compile(r"`((?:tasks|flows|deployments)/[\w/]+)\.py`((?:[ ,|]+`[A-Za-z_][\w.]*`)+)")


def members(page: Path) -> Iterator[tuple[str, str]]:
    """Yield each name that follows a module on a page, with the module."""
    for module, names in _MEMBERS.findall(page.read_text()):
        for name in re.findall(r"`([\w.]+)`", names):
            yield module.replace("/", "."), name


def rows(text: str) -> list[str]:
    """Return the rows of all tables in a text, without marks and spaces for layout."""
    lines = [re.sub(r"\s*\|\s*", "|", line.replace("`", "")) for line in text.splitlines() if line.startswith("|")]
    return [line for line in lines if not re.fullmatch(r"[|-]+", line)]


@pytest.mark.parametrize("page", MAPS, ids=lambda page: page.name)
def test_paths_that_a_map_names_exist(page: Path) -> None:
    named = {path for path in _PATH.findall(without_blocks(page.read_text())) if "NAME" not in path}
    assert named
    assert not {path for path in named if not (ROOT / path).exists()}


def test_functions_of_the_walks_exist() -> None:
    named = set(members(ROOT / "ARCHITECTURE.md"))
    assert len(named) > 40
    for module, name in sorted(named):
        reduce(getattr, name.split("."), importlib.import_module(module))


def test_every_folder_is_in_the_tree() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for floor in ("flows", "tasks", "deployments"):
        tree = re.search(rf"^{floor}/ .*\n((?:  .*\n)*)", text, re.MULTILINE)
        assert tree
        shown = re.findall(r"^  (\w+)/ ", tree[1], re.MULTILINE)
        assert sorted(shown) == sorted(folder.parent.name for folder in (ROOT / floor).glob("*/__init__.py"))


def test_the_table_of_keys_is_the_one_in_the_code() -> None:
    table = re.search(r"<!-- keys -->\n(.*)<!-- /keys -->", (ROOT / "ARCHITECTURE.md").read_text(), re.DOTALL)
    assert table
    assert len(in_code := rows(keys.__doc__ or "")) > 20
    assert rows(table[1]) == in_code
