"""`to_parquet` writes the rows of each entry once, and acknowledges the entry when they are durable."""

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from streamz import Stream

from tasks.archive import dataset
from tasks.archive.dataset import open_kind, rows_of, write
from tasks.errors import EncodeError, PipelineError, SettingsError
from tasks.nodes.to_parquet import to_parquet
from tasks.pipeline.guard import secure
from tasks.pipeline.receipts import Receipt
from tasks.reservoir.entry import Entry
from tasks.reservoir.fence import Fence
from tests.support.refs import Ref

AT = 1_795_500_000_000  # 2026-11-24 06:40 UTC
FRAME = pd.DataFrame({"price": [1.5, 2.5]}, index=pd.Index(["a", "b"], name="code"))


def entry(n: int, fields: dict, topic: str = "market") -> Entry:
    return Entry(fields, topic=topic, id=f"{AT + n}-0")


def rows(*entries: Entry) -> list[dataset.Rows]:
    return [one for each in entries for one in rows_of(each)]


def files(folder: Path) -> list[str]:
    """Return the files with rows, and any unexpected files."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name not in (".lock", "columns.parquet"))
    return sorted(str(path.relative_to(folder)) for path in found)


def ids(folder: Path, kind: str, topic: str = "market") -> list[str]:
    return sorted(open_kind(folder, topic, kind).to_table()["entry_id"].to_pylist())


def emit(source: Stream, entries: list[Entry]) -> list[Ref]:
    refs = []
    for each in entries:
        refs.append(Ref())
        source.emit(each, metadata=[{"ref": refs[-1]}])
    return refs


# What is a row


def test_a_frame_is_rows_with_its_index_and_the_entrys_id_and_time(tmp_path: Path) -> None:
    [path] = write(tmp_path, rows(entry(5, {"quotes": FRAME})))
    assert str(path.relative_to(tmp_path)) == f"topic=market/kind=quotes/day=2026-11-24/{AT + 5}-0_{AT + 5}-0.parquet"
    frame = pd.read_parquet(path)
    assert frame[["entry_id", "code", "price"]].to_dict("list") == {
        "entry_id": [f"{AT + 5}-0"] * 2,
        "code": ["a", "b"],
        "price": [1.5, 2.5],
    }
    assert list(frame["entry_time"]) == [datetime.fromtimestamp((AT + 5) / 1000, UTC)] * 2


def test_fields_that_are_no_frames_are_one_row_and_frames_are_kinds_of_their_own(tmp_path: Path) -> None:
    write(tmp_path, rows(entry(1, {"vitals": FRAME, "totals": {"cpu": 2.5, "load": None, "disks": [1]}, "host": "a"})))
    assert ids(tmp_path, "vitals") == [f"{AT + 1}-0"] * 2
    [row] = (
        open_kind(tmp_path, "market", "host+totals")
        .to_table()
        .drop_columns(["entry_id", "entry_time", "day"])
        .to_pylist()
    )
    assert row == {"host": "a", "totals.cpu": 2.5, "totals.load": None, "totals.disks": "[1]"}


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (True, True),
        (2**63, str(2**63)),
        (b"\xff", b"\xff"),
        ([1, "a"], '[1, "a"]'),
        ({}, "{}"),
        (Decimal("1.10"), '"1.10"'),
        (np.float64(0.5), 0.5),
        (timedelta(seconds=2), timedelta(seconds=2)),
        (datetime(2026, 11, 24, tzinfo=UTC), datetime(2026, 11, 24, tzinfo=UTC)),
    ],
)
def test_a_value_keeps_its_type_or_becomes_json(tmp_path: Path, value: object, kept: object) -> None:
    write(tmp_path, rows(entry(1, {"x": value})))
    assert open_kind(tmp_path, "market", "x").to_table()["x"].to_pylist() == [kept]


@pytest.mark.parametrize(
    "value",
    [
        FRAME["price"],
        FRAME.index,
        np.ones(2),
        np.ones((2, 2)),
        pa.table({"a": [1, 2]}),
        FRAME.astype("category"),
        pd.DataFrame(index=[1, 2]),
    ],
)
def test_anything_with_rows_is_shown_by_its_rows(tmp_path: Path, value: object) -> None:
    write(tmp_path, rows(entry(1, {"x": value})))
    assert open_kind(tmp_path, "market", "x").count_rows() == 2


def test_names_that_are_taken_get_an_underscore_and_no_column_is_lost(tmp_path: Path) -> None:
    taken = pd.DataFrame(
        [[1, 2, 3, 4]], columns=pd.Index(["entry_id", "entry_time", "a", "a"]), index=pd.Index([9], name="a")
    )
    write(tmp_path, rows(entry(1, {"x": taken})))
    [row] = open_kind(tmp_path, "market", "x").to_table().to_pylist()
    assert (row["entry_id"], row["entry_id_"], row["entry_time_"], row["a"], row["a_"], row["a__"]) == (
        f"{AT + 1}-0",
        1,
        2,
        9,
        3,
        4,
    )


@pytest.mark.parametrize("name", ["a/b", "..", "k=v", "价格", "x" * 300, "a b+c%"])
def test_any_field_name_makes_one_folder_below_the_datasets(tmp_path: Path, name: str) -> None:
    [path] = write(tmp_path, rows(entry(1, {name: 1})))
    assert len(path.relative_to(tmp_path).parts) == 4
    assert ids(tmp_path, name) == [f"{AT + 1}-0"]


@pytest.mark.parametrize(
    "value",
    [
        pd.DataFrame({"a": [1, "b"]}, dtype=object),
        pa.table({"a": pa.array([(1, 2, 3)], pa.month_day_nano_interval())}),
    ],
)
def test_a_frame_that_parquet_cannot_hold_is_refused_by_topic_entry_and_field(value: object) -> None:
    with pytest.raises(EncodeError, match=f"topic 'market' entry {AT + 1}-0 field 'x'"):
        rows_of(entry(1, {"x": value}))


# What is a file


def test_a_day_and_a_topic_have_files_of_their_own(tmp_path: Path) -> None:
    day = 86_400_000
    given_rows = rows(
        entry(0, {"x": 1}),
        entry(1, {"x": 1.5}),
        entry(2, {"x": None}),
        entry(day, {"x": 2}),
        entry(1, {"x": 3}, "other"),
    )
    assert len(write(tmp_path, given_rows)) == 3, "None is of any type"
    table = open_kind(tmp_path, "market", "x").to_table().sort_by("entry_id")
    assert table["x"].to_pylist() == [1.0, 1.5, None, 2.0]
    assert table["day"].to_pylist() == ["2026-11-24"] * 3 + ["2026-11-25"]


def test_a_file_holds_whole_entries_in_order_and_leaves_nothing_else_behind(tmp_path: Path) -> None:
    write(tmp_path, rows(*(entry(n, {"quotes": FRAME}) for n in (9, 10, 2))))
    [name] = files(tmp_path)
    assert name.endswith(f"{AT + 2}-0_{AT + 10}-0.parquet")
    assert pq.read_table(tmp_path / name)["entry_id"].to_pylist() == [f"{AT + n}-0" for n in (2, 2, 9, 9, 10, 10)]


def test_a_file_and_its_name_are_synced_before_write_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, link = os.fsync, Path.hardlink_to
    monkeypatch.setattr(
        os, "fsync", lambda fd: (done.append(f"sync {Path(os.readlink(f'/proc/self/fd/{fd}')).name}"), fsync(fd))
    )
    monkeypatch.setattr(Path, "hardlink_to", lambda self, to: (done.append("name"), link(self, to)))
    [path] = write(tmp_path / "new", rows(entry(1, {"x": 1})))
    assert done[-3:] == [f"sync .{path.name}.tmp", "name", "sync day=2026-11-24"]
    made = [tmp_path.name, "new", "topic=market", "kind=x"]
    assert [one for one in done[:-3] if one in [f"sync {name}" for name in made]][:4] == [
        f"sync {name}" for name in made
    ]


# When an entry is done


@pytest.fixture
def source() -> Iterator[Stream]:
    stream = Stream()
    yield stream
    for node in list(stream.downstreams):
        node._held.clear()
        node.destroy()


def test_entries_are_held_until_their_file_is_written(source: Stream, tmp_path: Path) -> None:
    source.to_parquet(tmp_path, max_entries=3)
    refs = emit(source, [entry(n, {"x": n}) for n in range(2)])
    assert [ref.held for ref in refs] == [1, 1]
    assert files(tmp_path) == []
    refs += emit(source, [entry(n, {"x": n}) for n in (2, 3)])
    assert [ref.held for ref in refs] == [0, 0, 0, 1]
    assert ids(tmp_path, "x") == [f"{AT + n}-0" for n in range(3)]


def test_receipts_are_held_while_the_write_is_under_way(
    source: Stream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    refs: list[Ref] = [Ref()]
    monkeypatch.setattr("tasks.nodes.to_parquet.write", lambda *args: (held.append(refs[0].held), write(*args))[1])
    node = source.to_parquet(tmp_path)
    source.emit(entry(1, {"x": 1}), metadata=[{"ref": refs[0]}])
    [path] = node.flush()
    assert (held, refs[0].held, path.is_file()) == ([1], 0, True)
    assert node.flush() == []


def test_many_bytes_are_written_before_many_entries_have_come(source: Stream, tmp_path: Path) -> None:
    source.to_parquet(tmp_path, max_bytes=1)
    [ref] = emit(source, [entry(1, {"quotes": FRAME})])
    assert ref.held == 0


def until(condition: object, what: str) -> None:
    deadline = time.monotonic() + 10
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        threading.Event().wait(0.005)


def test_a_lone_entry_is_written_when_its_time_is_up(source: Stream, tmp_path: Path) -> None:
    source.to_parquet(tmp_path, max_seconds=0.01)
    [ref] = emit(source, [entry(1, {"x": 1})])
    until(lambda: ref.held == 0, "the entry is written")
    assert ids(tmp_path, "x") == [f"{AT + 1}-0"]


def test_a_disk_that_refuses_loses_nothing_and_is_tried_again(
    source: Stream, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "archive"
    blocked.touch()  # a file where the folder should be
    node = source.to_parquet(blocked, max_seconds=0.01)
    refs = emit(source, [entry(n, {"x": n}) for n in range(2)])
    until(lambda: f"entries cannot be written to {tmp_path}" in caplog.text, "the refusal is logged")
    with pytest.raises(OSError, match="archive"):
        node.flush()
    assert [ref.held for ref in refs] == [1, 1]
    blocked.unlink()
    until(lambda: not any(ref.held for ref in refs), "the entries are written")
    assert ids(blocked, "x") == [f"{AT + n}-0" for n in range(2)]


def test_a_disk_that_refuses_holds_up_the_source_when_a_file_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "archive"
    blocked.touch()

    async def scenario() -> None:
        source = Stream(asynchronous=True)
        source.to_parquet(blocked, max_entries=1)
        pauses: list[float] = []
        sleep = asyncio.sleep

        async def pause(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 3:
                blocked.unlink()
            await sleep(0)

        monkeypatch.setattr("tasks.nodes.to_parquet.asyncio.sleep", pause)
        await source.emit(entry(1, {"x": 1}))
        assert pauses == [1.0, 2.0, 4.0]

    asyncio.run(scenario())
    assert ids(blocked, "x") == [f"{AT + 1}-0"]


def test_an_entry_that_cannot_be_written_fails_alone_and_is_not_held(tmp_path: Path) -> None:
    done: list[Receipt] = []

    async def scenario() -> None:
        source = Stream(asynchronous=True)
        node = source.to_parquet(tmp_path)
        secure(source)
        for n, value in enumerate([FRAME, pd.DataFrame({"a": [1, "b"]}, dtype=object), FRAME]):
            receipt = Receipt("market", f"{AT + n}-0", fence=Fence("archive", "lease", "token"), done=done.append)
            await source.emit(entry(n, {"quotes": value}), metadata=[{"ref": receipt}])
            receipt.release()
        assert [(receipt.id, type(receipt.failure.error)) for receipt in done if receipt.failure] == [
            (f"{AT + 1}-0", EncodeError)
        ]
        assert len(done) == 1, "the others wait for their file"
        node.flush()

    asyncio.run(scenario())
    assert len(done) == 3
    assert set(ids(tmp_path, "quotes")) == {f"{AT}-0", f"{AT + 2}-0"}


def test_held_entries_are_written_when_the_sink_is_destroyed(source: Stream, tmp_path: Path) -> None:
    node = source.to_parquet(tmp_path)
    [ref] = emit(source, [entry(1, {"x": 1})])
    node.destroy()
    assert ref.held == 0
    assert ids(tmp_path, "x") == [f"{AT + 1}-0"]


def test_only_entries_can_be_archived(source: Stream, tmp_path: Path) -> None:
    source.to_parquet(tmp_path)
    with pytest.raises(PipelineError, match="expected an entry as from_redis emits it, got dict"):
        source.emit({"x": 1})


@pytest.mark.parametrize("wrong", [{"max_entries": 0}, {"max_seconds": 0}, {"max_bytes": 0}])
def test_limits_that_hold_nothing_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match="above zero"):
        to_parquet(Stream(), tmp_path, **wrong)
