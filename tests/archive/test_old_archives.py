"""Archives of 0.1.0 are continued: no row is lost or written twice, and all files can be read together."""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.archive.dataset import open_archive, open_kind, rows_of, write
from tasks.reservoir.entry import Entry
from tests.archive.test_archive_readers import READERS

AT = 1_795_500_000_000  # 2026-11-24 06:40 UTC


def old_file(folder: Path, kind: str, columns: dict[str, Any], *numbers: int, topic: str = "t") -> Path:
    """Write a file as 0.1.0 did: with the types of its own values."""
    ids = [f"{AT + n}-0" for n in numbers]
    path = folder / f"topic={topic}" / f"kind={kind}" / "day=2026-11-24" / f"{ids[0]}_{ids[-1]}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    times = pa.array([AT + n for n in numbers], pa.timestamp("ms", "UTC"))
    pq.write_table(pa.table({"entry_id": ids, "entry_time": times, **columns}), path, compression="zstd")
    return path


def entry(n: int, fields: dict[str, Any]) -> Entry:
    return Entry(fields, topic="t", id=f"{AT + n}-0")


def add(folder: Path, *entries: Entry) -> None:
    write(folder, [one for each in entries for one in rows_of(each)])


def test_entries_that_an_old_file_has_are_not_written_again(tmp_path: Path) -> None:
    old_file(tmp_path, "x", {"x": [0, 1, 2]}, 0, 1, 2)
    add(tmp_path, *[entry(n, {"x": n}) for n in range(1, 5)])
    for read in READERS.values():
        assert sorted(read(str(tmp_path))["x"]) == [0, 1, 2, 3, 4]


def test_files_that_fit_together_stay_as_they_are(tmp_path: Path) -> None:
    columns = {
        "n": pa.array([1], pa.int32()),
        "code": pa.array(["a"]),
        "at": pa.array([0], pa.timestamp("us", "Asia/Tokyo")),
    }
    before = {path: path.read_bytes() for path in (old_file(tmp_path, kind, columns, 0) for kind in ("f", "g"))}
    frame = pd.DataFrame({"n": [2], "code": ["b"], "at": pd.to_datetime(["2026-01-01T00:00Z"])})
    add(tmp_path, entry(1, {"f": frame}))
    assert {path: path.read_bytes() for path in before} == before
    table = open_kind(tmp_path, "t", "f").to_table()
    assert (table["n"].to_pylist(), table["code"].to_pylist()) == ([1, 2], ["a", "b"])
    assert table.schema.field("n").type == pa.int32()


@pytest.mark.parametrize(
    ("files", "kept"),
    [
        ([{"pe": [12.5]}, {"pe": ["N/A"]}], {"pe": [12.5], "pe_text": ["N/A"]}),
        ([{"pe": [1]}, {"pe": [2.5]}], {"pe": [1.0, 2.5]}),
        ([{"day": [5], "pe": [1]}, {"day": [6], "pe": [2]}], {"day_": [5, 6], "pe": [1, 2]}),
        ([{"pe": pa.nulls(1)}, {"pe": [1]}], {"pe": [1]}),
        ([{"day": pa.nulls(1)}, {"pe": [1]}], {"pe": [1]}),
        ([{"pe": pa.array([1], pa.int8())}, {"pe": [300]}], {"pe": [1, 300]}),
    ],
)
def test_files_that_could_not_be_read_together_are_rewritten_once(
    tmp_path: Path, files: list[dict[str, Any]], kept: dict[str, list[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    for n, columns in enumerate(files):
        old_file(tmp_path, "x", columns, n)
    add(tmp_path, entry(9, {"other": 1}))
    for read in READERS.values():
        frame = read(str(tmp_path))
        assert {name: frame[name].dropna().tolist() for name in kept} == kept
        assert len(frame) == len(files) + 1
    caplog.clear()
    add(tmp_path, entry(10, {"other": 1}))
    assert "rewritten" not in caplog.text


def test_an_old_archive_can_be_opened_before_anything_is_added(tmp_path: Path) -> None:
    for n, columns in enumerate(({"pe": [1], "a": ["x"]}, {"pe": [2.5]})):
        old_file(tmp_path, "x", columns, n)
    assert open_kind(tmp_path, "t", "x").to_table()["pe"].to_pylist() == [1.0, 2.5]
    assert open_archive(tmp_path).to_table()["a"].to_pylist() == ["x", None]


@pytest.mark.parametrize(
    "which", ["topic=!columns/**/columns.parquet", "topic=t/**/columns.parquet", "**/columns.parquet"]
)
def test_columns_that_were_lost_are_found_in_the_files(tmp_path: Path, which: str) -> None:
    add(tmp_path, entry(0, {"x": 1}))
    for path in tmp_path.glob(which):
        path.write_bytes(b"damaged")
    add(tmp_path, entry(1, {"x": "a"}))
    for frame in (pd.read_parquet(tmp_path), open_kind(tmp_path, "t", "x").to_table().to_pandas()):
        assert (frame["x"].dropna().tolist(), frame["x_text"].dropna().tolist()) == ([1], ["a"])
