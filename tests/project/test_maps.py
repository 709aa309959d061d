"""ARCHITECTURE.md and CONTRIBUTING.md name only files, functions and classes that exist."""

import re
from pathlib import Path

import pytest

from tests.support.documents import ROOT, without_blocks

MAPS = [ROOT / "CONTRIBUTING.md"]

_PATH = re.compile(r"`((?:tasks|flows|deployments|tests|docs|benchmarks|findings|\.ci|\.github)/[\w./-]*)`")


@pytest.mark.parametrize("page", MAPS, ids=lambda page: page.name)
def test_paths_that_a_map_names_exist(page: Path) -> None:
    named = {path for path in _PATH.findall(without_blocks(page.read_text())) if "NAME" not in path}
    assert named
    assert not {path for path in named if not (ROOT / path).exists()}
