"""Frames are split by rows for the partitions of a topic, and come back with their order, index and dtypes."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import codec
from tasks.errors import EncodeError
from tasks.reservoir.partitions import Partitioning, partition_for
from tasks.reservoir.splitting import split

BY = Partitioning(3, "code")

codes = st.lists(st.sampled_from(["600000", "600001", "600002", "600003", None]), max_size=8)
moments = st.lists(st.sampled_from([datetime(2025, 1, day, tzinfo=UTC) for day in (1, 2, 3)]), max_size=8)


class OtherFrame:
    """A frame of a library that Sluice knows nothing about, with columns of views."""

    def __init__(self, columns: dict[str, Any]) -> None:
        table = pa.table(columns)
        kinds = [pa.string_view() if pa.types.is_string(kind) else kind for kind in table.schema.types]
        self._table = table.cast(pa.schema(list(zip(table.column_names, kinds, strict=True))))
        self._was_read = False

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        assert not self._was_read, "a query's result can be read once"
        self._was_read = True
        return self._table.__arrow_c_stream__(requested_schema)


def as_pandas(columns: dict[str, Any]) -> Any:
    return pd.DataFrame({"code": pd.Series(columns["code"], dtype="str"), "n": columns["n"]})


LIBRARIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "pandas": as_pandas,
    "categories of pandas": lambda columns: as_pandas(columns).astype({"code": "category"}),
    "index of pandas": lambda columns: as_pandas(columns).set_index("code"),
    "polars": lambda columns: pl.DataFrame(columns, schema={"code": pl.String, "n": pl.Int64}),
    "categories of polars": lambda columns: pl.DataFrame(columns, schema={"code": pl.Categorical, "n": pl.Int64}),
    "pyarrow": lambda columns: pa.table(columns, schema=pa.schema({"code": pa.string(), "n": pa.int64()})),
    "dictionaries of pyarrow": lambda columns: pa.table(
        {"code": pa.array(columns["code"], pa.string()).dictionary_encode(), "n": pa.array(columns["n"], pa.int64())}
    ),
    "another": lambda columns: OtherFrame(
        {"code": pa.array(columns["code"], pa.string()), "n": pa.array(columns["n"], pa.int64())}
    ),
}


def decoded(frame: Any) -> Any:
    return codec.decode(codec.encode(frame))


def rows(frame: Any) -> list[tuple[Any, Any]]:
    """Return the rows of a frame as an outlet gets it."""
    read = decoded(frame)
    read = pl.from_arrow(read).to_pandas() if isinstance(read, pa.Table) else read
    read = read.reset_index() if "code" not in read.columns else read
    return [(None if pd.isna(code) else code, n) for code, n in zip(read["code"], read["n"], strict=True)]


@pytest.mark.parametrize("library", LIBRARIES)
@given(codes=codes)
def test_rows_of_a_frame_go_to_the_partition_of_their_key_in_order(library: str, codes: list[str | None]) -> None:
    numbers = list(range(len(codes)))
    frame = LIBRARIES[library]({"code": codes, "n": numbers})
    parts = dict(split({"quotes": frame, "source": "sina"}, BY))
    found = {n: rows(fields["quotes"]) for n, fields in parts.items()}
    expected = {n: [row for row in zip(codes, numbers, strict=True) if partition_for(row[0], 3) == n] for n in range(3)}
    assert found == ({n: part for n, part in expected.items() if part} or {partition_for(None, 3): []})
    assert all(fields["source"] == "sina" for fields in parts.values())


COLUMNS: dict[str, Callable[[list[int]], Any]] = {
    "int16": lambda ns: pd.array(ns, dtype="int16"),
    "float32": lambda ns: pd.array([n / 3 if n else None for n in ns], dtype="float32"),
    "nullable": lambda ns: pd.array([n or None for n in ns], dtype="Int64"),
    "text": lambda ns: pd.array([str(n) if n else None for n in ns], dtype="str"),
    "categories": lambda ns: pd.Categorical([f"c{n}" for n in ns], categories=[f"c{n}" for n in range(10)]),
    "moments": lambda ns: pd.to_datetime(ns, unit="D", utc=True),
    "durations": lambda ns: pd.to_timedelta(ns, unit="min"),
    "objects": lambda ns: pd.array([str(n) if n else None for n in ns], dtype="object"),
}
INDEXES: dict[str, Callable[[int], pd.Index]] = {
    "range": pd.RangeIndex,
    "named range": lambda n: pd.RangeIndex(10, 10 + 2 * n, 2, name="row"),
    "text": lambda n: pd.Index([f"row {i}" for i in range(n)], name="row"),
    "moments": lambda n: pd.DatetimeIndex(pd.to_datetime(range(n), unit="h")),
    "moments with a frequency": lambda n: pd.date_range("2025-01-01", periods=n, freq="h"),
    "levels": lambda n: pd.MultiIndex.from_arrays([range(n), [f"row {i}" for i in range(n)]], names=["a", None]),
    "categories": lambda n: pd.CategoricalIndex([f"row {i}" for i in range(n)]),
}


@given(
    numbers=st.lists(st.integers(0, 9), min_size=1, max_size=8),
    columns=st.sets(st.sampled_from(sorted(COLUMNS)), min_size=1),
    index=st.sampled_from(sorted(INDEXES)),
)
def test_parts_of_a_frame_keep_dtypes_and_index(numbers: list[int], columns: set[str], index: str) -> None:
    frame = pd.DataFrame({"code": numbers, **{name: COLUMNS[name](numbers) for name in sorted(columns)}})
    frame = frame.set_index(INDEXES[index](len(numbers))).set_flags(allows_duplicate_labels=False)
    frame.attrs["unit"] = "CNY"
    for n, fields in split({"quotes": frame}, BY):
        part = codec.decode(codec.encode(fields["quotes"]))
        expected = frame[[partition_for(number, 3) == n for number in numbers]]
        pd.testing.assert_frame_equal(part, expected, check_index_type="equiv", check_freq=False)
        assert (part.attrs, part.flags.allows_duplicate_labels) == (frame.attrs, False)


@given(moments)
def test_rows_are_split_by_moments_as_small_entries_are(moments: list[datetime]) -> None:
    for frame in (
        pd.DataFrame({"code": pd.Series(moments, dtype="datetime64[us, UTC]"), "n": 1}),
        pl.DataFrame({"code": moments}, schema={"code": pl.Datetime("us", "UTC")}),
    ):
        for n, fields in split({"quotes": frame}, BY):
            assert {partition_for(code, 3) for code in decoded(fields["quotes"])["code"]} <= {n}


def test_several_frames_of_an_entry_are_split_together() -> None:
    entry = {"a": pd.DataFrame({"code": ["600000"]}), "b": pd.DataFrame({"code": ["600001", "600000"]})}
    parts = list(split(entry, BY))
    assert [n for n, _ in parts] == sorted({partition_for("600000", 3), partition_for("600001", 3)})
    assert all(set(fields) == {"a", "b"} for _, fields in parts)
    assert sum(len(decoded(fields["a"])) for _, fields in parts) == 1


def test_frame_beside_the_key_is_not_split() -> None:
    entry = {"code": "600000", "bars": pd.DataFrame({"code": ["600001", "600002"]})}
    assert list(split(entry, BY)) == [(partition_for("600000", 3), entry)]


def test_record_is_split_by_its_fields() -> None:
    class Quote(NamedTuple):
        code: str
        price: float

    assert list(split(Quote("600000", 1.5), BY)) == [(partition_for("600000", 3), {"code": "600000", "price": 1.5})]


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (pd.DataFrame([[1, 2]], columns=["code", "code"]), "expected a frame with one column 'code'"),
        (pa.table([[1], [2]], names=["code", "code"]), "expected a frame with one column 'code'"),
        (pl.DataFrame({"name": [1]}), "expected a frame with one column 'code'"),
        (pd.DataFrame({"code": [[1]]}), "column 'code': expected keys that can be compared"),
        (pa.table({"code": [[1]]}), "column 'code': expected keys that can be compared"),
        (pd.DataFrame({"code": [1j]}), "field 'quotes', column 'code': expected a key that is text"),
    ],
    ids=["twice in pandas", "twice in pyarrow", "none in polars", "lists in pandas", "lists in pyarrow", "complex"],
)
def test_frame_without_keys_is_refused_with_what_to_do(frame: Any, why: str) -> None:
    with pytest.raises(EncodeError, match=f"{why}.*; nothing was pushed; "):
        list(split({"quotes": frame}, BY))
