"""Foreign files in an archive and unexpected errors during a write lose no entry."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from streamz import Stream

from tasks.archive import dataset
from tasks.archive.dataset import Rows, open_kind, rows_of, write
from tasks.errors import EncodeError
from tasks.pipeline.guard import secure
from tasks.pipeline.receipts import Receipt
from tasks.reservoir.entry import Entry
from tasks.reservoir.fence import Fence
from tests.support.waiting import wait_until

AT = 1_795_500_000_000  # 2026-11-24 06:40 UTC
WIDE = f"1-0_{2 * AT}-0.parquet"


def entry(n: int) -> Entry:
    return Entry({"x": n}, topic="market", id=f"{AT + n}-0")


def rows(numbers: range) -> list[Rows]:
    return [one for n in numbers for one in rows_of(entry(n))]


def archived(folder: Path) -> list[int]:
    return sorted(open_kind(folder, "market", "x").to_table()["x"].to_pylist())


def without_its_rows(path: Path) -> None:
    contents = path.read_bytes()
    half = len(contents) // 2
    path.write_bytes(bytes(half) + contents[half:])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (WIDE, lambda path: path.write_bytes(b"")),
        (WIDE, lambda path: path.write_bytes(path.read_bytes()[:-1])),
        (WIDE, without_its_rows),
        (WIDE, lambda path: pq.write_table(pa.table({"other": [1]}), path)),
        ("1.parquet", lambda path: None),
    ],
    ids=["empty", "half copied", "without its rows", "without ids", "without a range in its name"],
)
def test_a_file_that_cannot_be_read_is_said_once_and_entries_are_written_beside_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, damage: Callable[[Path], Any]
) -> None:
    [whole] = write(tmp_path, rows(range(1000)))
    damaged = whole.rename(whole.with_name(name))
    damage(damaged)
    write(tmp_path, rows(range(2)))
    write(tmp_path, rows(range(1, 4)))
    assert caplog.text.count(f"{damaged} cannot be read") == 1
    damaged.unlink()
    assert archived(tmp_path) == [0, 1, 2, 3]


def test_a_disk_that_fails_while_a_file_is_read_is_no_damage_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, rows(range(2)))

    def fail(path: Path) -> None:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(pq, "ParquetFile", fail)
    with pytest.raises(OSError, match="Input/output"):
        write(tmp_path, rows(range(1, 3)))


def test_an_entry_that_no_file_can_be_made_of_fails_alone_and_the_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = dataset._parquet

    def serialise(table: pa.Table) -> pa.Buffer:
        if "x" in table.column_names and 2 in table["x"].to_pylist():
            raise pa.ArrowNotImplementedError
        return whole(table)

    monkeypatch.setattr(dataset, "_parquet", serialise)
    done: list[Receipt] = []

    async def scenario() -> None:
        source = Stream(asynchronous=True)
        source.to_parquet(tmp_path, max_entries=4)
        secure(source)
        for n in range(4):
            receipt = Receipt("market", f"{AT + n}-0", fence=Fence("archive", "lease", "token"), done=done.append)
            await source.emit(entry(n), metadata=[{"ref": receipt}])
            receipt.release()

    asyncio.run(scenario())
    assert len(done) == 4
    [failed] = [receipt for receipt in done if receipt.failure]
    assert failed.id == f"{AT + 2}-0"
    assert "expected rows that Parquet can hold" in str(failed.failure and failed.failure.error)
    assert archived(tmp_path) == [0, 1, 3]


@pytest.mark.parametrize("id_", ["x", "-5-0", "1-2-3", "1_0-0", "1/0-0", "9" * 21 + "-0", ""])
def test_an_entry_of_an_id_that_redis_cannot_have_given_is_refused(id_: str) -> None:
    with pytest.raises(EncodeError, match="expected an entry id of two numbers"):
        rows_of(Entry({"x": 1}, topic="market", id=id_))


def test_held_entries_are_written_again_after_any_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[int] = []

    def fail(*_: Any) -> None:
        tries.append(1)
        msg = "an unforeseen error"
        raise RuntimeError(msg)

    with monkeypatch.context() as patch:
        patch.setattr("tasks.nodes.to_parquet.write", fail)
        source = Stream()
        node: Any = source.to_parquet(tmp_path, max_seconds=0.01)
        source.emit(entry(1))
        wait_until(lambda: len(tries) > 2, "several tries")
        assert "they stay pending, at last 1 (RuntimeError: an unforeseen error), next try in 0.01 s" in caplog.text
        assert node.before_stop() is False
    wait_until(lambda: not node._held, "the entry to be written")
    assert archived(tmp_path) == [1]
