"""Every reader of an archive reads periods, intervals, uuids and nested cells."""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tasks.archive.dataset import open_kind, rows_of, write
from tests.archive.test_archive_readers import entry, every_reader


def objects(*cells: Any) -> pd.Series:
    column = np.empty(len(cells), dtype=object)
    for n, cell in enumerate(cells):
        column[n] = cell
    return pd.Series(column, dtype=object)


COLUMNS: dict[str, tuple[pd.Series, list[Any]]] = {
    "bool": (objects(True, None), [True, None]),
    "uuid": (objects(uuid.UUID(int=5), None), [str(uuid.UUID(int=5)), None]),
    "period": (pd.Series(pd.PeriodIndex(["2020-01", None], freq="M")), ["2020-01", None]),
    "interval": (
        pd.Series(pd.arrays.IntervalArray.from_tuples([(0.0, 1.5), None])),
        [{"left": 0.0, "right": 1.5}, None],
    ),
    "bins": (pd.Series(pd.cut([1.0, np.nan], [0, 2])), ["(0, 2]", None]),
    "list": (objects([1, 2], None), [[1, 2], None]),
    "dict": (objects({"a": 1, "b": None}, {"a": 2, "b": "x"}), [{"a": 1, "b": None}, {"a": 2, "b": "x"}]),
    "dicts of other keys": (objects({"a": 1}, {"b": [2]}), ['{"a":1}', '{"b":[2]}']),
    "array": (objects(np.array([1.5]), None), [[1.5], None]),
    "pairs": (objects([("k", 1)], []), [[("k", 1)], []]),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_of_each_kind_is_archived_with_its_values(tmp_path: Path, name: str) -> None:
    column, expected = COLUMNS[name]
    write(tmp_path, rows_of(entry(0, {"f": pd.DataFrame({"x": column})})))
    assert open_kind(tmp_path, "t", "f").to_table(columns=["x"])["x"].to_pylist() == expected


@every_reader
def test_columns_of_all_kinds_are_read_together(tmp_path: Path, read: Callable[[str], pd.DataFrame]) -> None:
    for n, (column, _) in enumerate(COLUMNS.values()):
        write(tmp_path, rows_of(entry(n, {"f": pd.DataFrame({"x": column})})))
    assert len(read(str(tmp_path))) == sum(len(column) for column, _ in COLUMNS.values())
