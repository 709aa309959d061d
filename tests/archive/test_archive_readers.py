"""Any archive can be read as a whole by pandas, pyarrow and polars, and by DuckDB where that is installed."""

import importlib
import importlib.util
import tempfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import dataset

from tasks.archive.dataset import open_archive, open_kind, rows_of, write
from tasks.errors import EncodeError
from tasks.reservoir.entry import Entry
from tests.support.documents import Block, blocks
from tests.support.values import frames, json_values, text

AT = 1_795_500_000_000  # 2026-11-24 06:40 UTC


def _duckdb(folder: str) -> pd.DataFrame:
    query = f"select * from read_parquet('{folder}/**/*.parquet', hive_partitioning=true, union_by_name=true)"
    return importlib.import_module("duckdb").sql(query).df()


def _polars(folder: str) -> pd.DataFrame:
    frame = importlib.import_module("polars").scan_parquet(folder, missing_columns="insert").collect()
    return pd.DataFrame({name: _values(frame[name]) for name in frame.columns})


def _values(column: Any) -> Any:
    """Return the values of a column of polars: times by way of numpy, as polars 1 cannot make Python's objects of all of them."""
    kind = type(column.dtype).__name__
    if kind not in ("Datetime", "Duration"):
        return column.to_list()
    times = pd.Series(column.to_numpy())
    zone = column.dtype.time_zone if kind == "Datetime" else None
    return times.dt.tz_localize("UTC").dt.tz_convert(zone) if zone else times


READERS: dict[str, Callable[[str], pd.DataFrame]] = {
    "pandas": pd.read_parquet,
    "pyarrow": lambda folder: dataset.dataset(folder, partitioning="hive").to_table().to_pandas(),
    "open_archive": lambda folder: open_archive(folder).to_table().to_pandas(),
}
# DuckDB is large, so it is in no extra; `pip install duckdb` adds it.
READERS |= {
    name: read for name, read in {"duckdb": _duckdb, "polars": _polars}.items() if importlib.util.find_spec(name)
}

every_reader = pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())


def entry(n: int, fields: dict[str, Any], topic: str = "t") -> Entry:
    return Entry(fields, topic=topic, id=f"{AT + n}-0")


def zoned(name: str) -> pd.DataFrame:
    return pd.DataFrame({"at": pd.to_datetime(["2026-01-01T12:00Z"]).tz_convert(name)})


@every_reader
@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"weather": pd.DataFrame({"day": ["mon", "tue"], "max": [3, 4]})}, {"day_": ["mon", "tue"], "max": [3, 4]}),
        ({"day": 5, "sales": 7}, {"day_": [5], "sales": [7]}),
        ({"x": pd.DataFrame({"topic": ["a"], "kind": ["b"]})}, {"topic_": ["a"], "kind_": ["b"]}),
        ({"x": pd.DataFrame({"Day": [1], "TOPIC": [2]})}, {"Day_": [1], "TOPIC_": [2]}),
        ({"x": pd.DataFrame({"day": [1], "day_": [2]})}, {"day_": [1], "day__": [2]}),
        ({"x": pd.DataFrame({"A": [1], "a": [2]})}, {"A": [1], "a_": [2]}),
        ({"x": pd.DataFrame({"": [1]})}, {"_": [1]}),
        ({"x": pd.DataFrame({"entry_id": [1], "Entry_Time": [2]})}, {"entry_id_": [1], "Entry_Time_": [2]}),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else None,
)
def test_columns_named_as_the_folders_are_kept_beside_them(
    tmp_path: Path, read: Callable[[str], pd.DataFrame], fields: dict[str, Any], kept: dict[str, list[Any]]
) -> None:
    write(tmp_path, rows_of(entry(0, fields)))
    write(tmp_path, rows_of(entry(1, {"load": 1.0}, topic="zebra")))
    frame = read(str(tmp_path))
    mine = frame[frame["topic"] == "t"]
    assert {name: mine[name].tolist() for name in kept} == kept
    assert (len(frame), mine["day"].astype(str).unique().tolist()) == (len(mine) + 1, ["2026-11-24"])
    assert frame["load"].dropna().tolist() == [1.0]


@every_reader
@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([12.5, "N/A"], {"x": [12.5], "x_text": ["N/A"]}),
        (["N/A", 12.5], {"x": ["N/A"], "x_float": [12.5]}),
        ([True, 1], {"x": [True], "x_int": [1]}),
        ([1, True], {"x": [1], "x_bool": [True]}),
        ([1, 2.0, 2.5], {"x": [1, 2], "x_float": [2.5]}),
        ([1.5, 2, 2**53 + 2], {"x": [1.5, 2.0], "x_int": [2**53 + 2]}),
        ([None, "a", None], {"x": ["a"]}),
        (["a", b"\xff"], {"x": ["a"], "x_bytes": [b"\xff"]}),
        ([np.int8(1), np.int64(300)], {"x": [1, 300]}),
    ],
    ids=repr,
)
def test_a_field_whose_type_changes_loses_nothing(
    tmp_path: Path, read: Callable[[str], pd.DataFrame], values: list[Any], kept: dict[str, list[Any]]
) -> None:
    for n, value in enumerate(values):
        write(tmp_path, rows_of(entry(n, {"x": value})))
    frame = read(str(tmp_path))
    assert sorted(frame["entry_id"]) == [f"{AT + n}-0" for n in range(len(values))]
    assert {name: [bytes(v) if isinstance(v, bytearray) else v for v in frame[name].dropna()] for name in kept} == kept


@every_reader
def test_moments_of_other_zones_are_the_same_moments(tmp_path: Path, read: Callable[[str], pd.DataFrame]) -> None:
    for n, name in enumerate(("UTC", "Europe/Berlin", "America/New_York")):
        write(tmp_path, rows_of(entry(n, {"f": zoned(name)})))
    naive = pd.DataFrame({"at": pd.to_datetime(["2026-01-01T12:00"])})
    write(tmp_path, rows_of(entry(3, {"f": naive})))
    frame = read(str(tmp_path))
    assert set(pd.to_datetime(frame["at"].dropna(), utc=True)) == {pd.Timestamp("2026-01-01T12:00Z")}
    assert frame["at"].notna().sum() == 3
    assert frame["at_timestamp"].dropna().tolist() == [pd.Timestamp("2026-01-01T12:00")]


@every_reader
def test_a_column_has_one_type_in_all_kinds_and_topics(tmp_path: Path, read: Callable[[str], pd.DataFrame]) -> None:
    write(tmp_path, rows_of(entry(0, {"bars": pd.DataFrame({"price": [1.5]})}, topic="b")))
    write(tmp_path, rows_of(entry(0, {"news": pd.DataFrame({"price": ["free"]})}, topic="a")))
    frame = read(str(tmp_path))
    assert frame["price"].dropna().tolist() == [1.5]
    assert frame["price_text"].dropna().tolist() == ["free"]
    assert open_kind(tmp_path, "a", "news").to_table()["price_text"].to_pylist() == ["free"]


def test_ints_and_floats_of_one_batch_share_a_column(tmp_path: Path) -> None:
    write(tmp_path, [one for n, x in enumerate([1, 1.5, 2]) for one in rows_of(entry(n, {"x": x}))])
    assert pd.read_parquet(tmp_path)["x"].tolist() == [1.0, 1.5, 2.0]


def test_ints_that_pandas_made_floats_for_a_missing_one_stay_in_their_column(tmp_path: Path) -> None:
    for n, values in enumerate(([1, 2], [3, None])):
        write(tmp_path, rows_of(entry(n, {"f": pd.DataFrame({"volume": values})})))
    frame = pd.read_parquet(tmp_path)
    assert frame["volume"].dropna().tolist() == [1, 2, 3]
    assert "volume_float" not in frame


@pytest.mark.parametrize(
    "value",
    [
        pd.Series([Decimal("1.10")], dtype=object),
        pd.Series([Decimal("1." + "1" * 30)], dtype=object),
        pd.Series([Decimal("9" * 38)], dtype=object),
    ],
)
def test_decimals_of_any_length_can_be_read_together(tmp_path: Path, value: pd.Series) -> None:
    for n, one in enumerate((pd.Series([Decimal("2.5")], dtype=object), value)):
        write(tmp_path, rows_of(entry(n, {"f": pd.DataFrame({"price": one})})))
    frame = pd.read_parquet(tmp_path)
    kept = [*frame["price"].dropna(), *frame.get("price_text", pd.Series()).dropna()]
    assert list(map(Decimal, kept)) == [Decimal("2.5"), value[0]]


def test_lists_and_structs_that_fit_no_column_become_json(tmp_path: Path) -> None:
    tables = [
        pa.table({"a": [[1, 2]], "b": [{"x": 1}]}),
        pa.table({"a": [["u"]], "b": [{"y": 1}]}),
        pa.table({"a": [[True]], "b": [{"z": None}]}),
    ]
    for n, table in enumerate(tables):
        write(tmp_path, rows_of(entry(n, {"f": table})))
    frame = pd.read_parquet(tmp_path)
    assert [list(one) for one in frame["a"].dropna()] == [[1, 2]]
    assert [list(one) for one in frame["a_list"].dropna()] == [["u"]]
    assert frame["a_json"].dropna().tolist() == ["[true]"]
    assert frame["b_json"].dropna().tolist() == ['{"z": null}']


def test_categories_stay_dictionaries_and_are_not_written_out(tmp_path: Path) -> None:
    long = "x" * 2**21
    frames = [
        pd.DataFrame({"c": pd.Categorical.from_codes([0] * 300, categories=[word])}) for word in (long, long + "y")
    ]
    [path] = write(tmp_path, [one for n, frame in enumerate(frames) for one in rows_of(entry(n, {"f": frame}))])
    table = pq.read_table(path)
    assert pa.types.is_dictionary(table.schema.field("c").type)
    assert table["c"].unify_dictionaries().nbytes < 4 * len(long)
    read = pd.read_parquet(tmp_path)["c"]
    assert [read[0], read[599]] == [long, long + "y"]


def test_categories_beside_text_are_text_unless_that_is_very_much(tmp_path: Path) -> None:
    write(tmp_path, rows_of(entry(0, {"f": pd.DataFrame({"c": ["a"]})})))
    write(tmp_path, rows_of(entry(1, {"f": pd.DataFrame({"c": pd.Categorical(["b"])})})))
    much = pd.Categorical.from_codes([0] * 300, categories=["x" * 2**17])
    write(tmp_path, rows_of(entry(2, {"f": pd.DataFrame({"c": much})})))
    frame = pd.read_parquet(tmp_path)
    assert frame["c"].dropna().tolist() == ["a", "b"]
    assert frame["c_category"].notna().sum() == 300


SHOWN = [block for block in blocks("python") if block.page.name == "archive.md"]


@pytest.mark.parametrize("block", SHOWN, ids=str)
def test_code_on_the_page_reads_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: Block) -> None:
    for library in ("duckdb", "polars"):
        if f"import {library}" in block.text and not importlib.util.find_spec(library):
            return  # no file of Sluice's is in it
    frame = pd.DataFrame({"code": ["a"], "now": [1.5], "high": [2.5]})
    entries = [entry(0, {"quotes": frame}, topic="market"), entry(1, {"seconds": 7}, topic="market")]
    write(tmp_path / ".sluice" / "archive", [one for each in entries for one in rows_of(each)])
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(block.text, str(block), "exec"), names)
    assert [_rows(names[name]) for name in ("quotes", "everything")] == [1, 2]


def _rows(found: Any) -> int:
    if hasattr(found, "count_rows"):
        return found.count_rows()
    return len(found.collect() if hasattr(found, "collect") else found)


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["x", "y", "day"]) | text.filter(bool), json_values | frames(), min_size=1, max_size=2
        ),
        min_size=1,
        max_size=6,
    ),
    st.data(),
)
def test_any_entries_in_any_batches_can_be_read_as_a_whole_with_all_their_rows(
    pushed: list[dict[str, Any]], data: st.DataObject
) -> None:
    rows: list[Any] = []
    for n, fields in enumerate(pushed):
        try:
            rows.append(rows_of(entry(n, fields, topic=f"t{n % 2}")))
        except EncodeError:
            continue
    with tempfile.TemporaryDirectory() as folder:
        left = rows
        while left:
            size = data.draw(st.integers(1, len(left)))
            write(Path(folder), [one for each in left[:size] for one in each])
            left = left[size:]
        wanted = sorted(one.id for each in rows for one in each for _ in range(one.table.num_rows))
        if rows:
            for read in READERS.values():
                assert sorted(read(folder)["entry_id"]) == wanted
        for one in {(one.topic, one.kind) for each in rows for one in each}:
            assert open_kind(folder, *one).to_table().num_rows == sum(
                each.table.num_rows for known in rows for each in known if (each.topic, each.kind) == one
            )
