"""Marks all tests of this folder as slow that are not marked as chaos: they kill real processes."""

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests; pytest calls this with the tests of all folders."""
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("chaos") is None:
            item.add_marker("slow")
