"""Fixtures for tests of forked runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.forked_runs import Runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    made = Runs(tmp_path_factory.mktemp("forked"))
    yield made
    made.clear()


@pytest.fixture
def own_runs(tmp_path: Path) -> Iterator[Runs]:
    """Runs whose template no other test uses."""
    made = Runs(tmp_path)
    yield made
    made.clear()
