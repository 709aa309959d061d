"""Each row is in an archive once, despite repeated writes in any batches and interruptions at any point."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from streamz import Stream

from tasks.archive import dataset
from tasks.archive import durable_files as durable
from tasks.archive.dataset import open_archive, rows_of, write
from tasks.nodes.to_parquet import to_parquet
from tasks.reservoir.entry import Entry
from tests.support.refs import Ref

AT = 1_795_500_000_000  # 2026-11-24 06:40 UTC
STEP = 20_000_000  # ms between entries: some days together

FULL = pd.DataFrame({"price": [1.5, 2.5]})
FIELDS = st.sampled_from(
    [
        {"quotes": FULL},
        {"quotes": FULL[:0]},
        {"quotes": FULL[:0], "x": 1},
        {"quotes": FULL, "x": "text"},
        {"quotes": FULL.astype(str)},
        {"x": 1},
        {"x": 2.5},
        {"x": None},
    ]
)


class Archives(RuleBasedStateMachine):
    """Successive consumers of one group that archive a topic; the model records the acknowledged entries."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.pushed: list[Entry] = []
        self.next = 0
        self.pending: list[int] = []
        self.archived: set[int] = set()
        self.files: dict[Path, int] = {}
        self._live()

    def _live(self) -> None:
        self.source = Stream()
        self.node: Any = self.source.to_parquet(self.folder, max_entries=10**6, max_seconds=3600)
        self.refs: dict[int, Ref] = {}

    def _deliver(self, numbers: list[int]) -> None:
        for n in numbers:
            self.refs[n] = Ref()
            self.source.emit(self.pushed[n], metadata=[{"ref": self.refs[n]}])

    def _acknowledge(self) -> None:
        done = {n for n in self.pending if n in self.refs and not self.refs[n].held}
        self.archived |= done
        self.pending = [n for n in self.pending if n not in done]

    def _die(self) -> None:
        self.node._held.clear()
        self.node.destroy()
        self._live()

    @rule(fields=st.lists(FIELDS, min_size=1, max_size=5))
    def push(self, fields: list[dict[str, Any]]) -> None:
        for one in fields:
            self.pushed.append(Entry(one, topic="market", id=f"{AT + len(self.pushed) * STEP}-0"))

    @precondition(lambda self: self.next < len(self.pushed))
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        end = data.draw(st.integers(self.next + 1, len(self.pushed)))
        new = list(range(self.next, end))
        self.next = end
        self.pending += new
        self._deliver(new)

    @rule()
    def flush(self) -> None:
        self.node.flush()
        self._acknowledge()

    @rule()
    def crash(self) -> None:
        self._die()
        self._deliver(self.pending)

    @rule(data=st.data())
    def crash_between_write_and_acknowledgement(self, data: st.DataObject) -> None:
        first = data.draw(st.integers(0, len(self.pending)))
        last = data.draw(st.integers(first, len(self.pending)))
        write(self.folder, [one for n in self.pending[first:last] for one in rows_of(self.pushed[n])])
        self.archived |= set(self.pending[first:last])
        self.crash()

    @rule(after=st.integers(0, 3))
    def crash_between_files(self, after: int) -> None:
        with failing_after(after):
            try:
                self.node.flush()
            except OSError:
                pass
            else:
                self._acknowledge()
        self.crash()

    @precondition(lambda self: self.next)
    @rule(data=st.data())
    def rewind(self, data: st.DataObject) -> None:
        self._die()
        self.next = data.draw(st.integers(0, self.next - 1))
        self.pending = [n for n in self.pending if n < self.next]
        self._deliver(self.pending)

    @invariant()
    def each_row_is_there_once_and_none_that_was_acknowledged_is_missing(self) -> None:
        wanted = {n: sum(one.table.num_rows for one in rows_of(entry)) for n, entry in enumerate(self.pushed)}
        found: dict[int, int] = {}
        if any(self.folder.glob("topic=market/*")):
            counted = open_archive(self.folder).to_table(["entry_id"])["entry_id"].value_counts().to_pylist()
            found = {(int(one["values"].split("-")[0]) - AT) // STEP: one["counts"] for one in counted}
        assert {n: found.get(n, 0) for n in self.archived} == {n: wanted[n] for n in self.archived}
        assert all(found[n] <= wanted[n] for n in found)

    @invariant()
    def no_file_goes_or_holds_less_than_before(self) -> None:
        found = {path: pq.read_metadata(path).num_rows for path in self.folder.glob("topic=market/*/*/[0-9]*.parquet")}
        assert {path: found.get(path) for path in self.files} == self.files
        assert all(found.values()), "a file without rows says nothing"
        self.files = found

    def teardown(self) -> None:
        self._die()
        self.node.destroy()
        shutil.rmtree(self.folder)


@contextmanager
def failing_after(files: int) -> Iterator[None]:
    left = files

    def write_new(path: Path, data: Any) -> Path:
        nonlocal left
        if not left:
            raise OSError(28, "No space left on device", str(path))
        left -= 1
        return durable.write_new(path, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "write_new", write_new)
        yield


TestArchives = Archives.TestCase


def entry(n: int, fields: dict[str, Any]) -> Entry:
    return Entry(fields, topic="market", id=f"{AT + n}-0")


def rows(*numbers: int) -> list[dataset.Rows]:
    return [one for n in numbers for one in rows_of(entry(n, {"x": n}))]


def archived(folder: Path) -> list[int]:
    return sorted(open_archive(folder).to_table()["x"].to_pylist())


def test_a_file_of_the_same_first_and_last_entry_takes_no_others_place(tmp_path: Path) -> None:
    [path] = write(tmp_path, rows(1, 2, 3))
    data = path.read_bytes()
    assert durable.write_new(path, b"less") == path.with_name(f"{path.stem}_1.parquet")
    assert path.read_bytes() == data


def test_a_second_file_of_the_same_range_is_looked_through_too(tmp_path: Path) -> None:
    [path] = write(tmp_path, rows(1, 3))
    path.rename(path.with_name(f"{path.stem}_1.parquet"))
    write(tmp_path, rows(1, 2, 3))
    assert archived(tmp_path) == [1, 2, 3]


def test_temporary_files_of_a_dead_writer_are_removed(tmp_path: Path) -> None:
    [path] = write(tmp_path, rows(1))
    left = path.with_name(".1-0_2-0.parquet.tmp")
    left.touch()
    write(tmp_path, rows(2))
    assert not left.exists()


@pytest.mark.parametrize("number", [1, 95])
def test_without_hard_links_files_are_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(path: Path, _: Path) -> None:
        raise OSError(number, "no links", str(path))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    paths = [*write(tmp_path, rows(1)), *write(tmp_path, rows(1, 2))]
    assert archived(tmp_path) == [1, 2]
    assert [path.is_file() for path in paths] == [True, True]


def in_turn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    monkeypatch.setattr(durable, "_PATIENCE", 0.02)
    return lambda: archived(folder)


def test_a_writer_waits_for_another_and_is_tried_again_where_that_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = in_turn(tmp_path, monkeypatch)
    write(tmp_path, rows(1))
    with durable.locked(tmp_path), pytest.raises(BlockingIOError, match="another process is writing"):
        write(tmp_path, rows(2))
    write(tmp_path, rows(2))
    assert now() == [1, 2]


def test_the_sink_is_the_one_that_the_model_drives() -> None:
    assert isinstance(Stream().to_parquet("unused"), to_parquet)
