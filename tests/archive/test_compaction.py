"""Compaction: readers see each row once at any step, also if the process dies there, and few files are left."""

import errno
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks import EncodeError, SettingsError
from tasks.archive import compaction, durable_files
from tasks.archive.compaction import Compacted, compact
from tasks.archive.dataset import open_archive, rows_of, write
from tasks.reservoir.entry import Entry
from tests.archive.test_archive_readers import READERS, every_reader
from tests.support.values import frames

AT = 1_795_500_000_000  # 2026-11-24 06:40 UTC
HOUR = 3_600_000
TODAY = date(2026, 11, 26)

Fields = dict[str, Any]
QUOTES = pd.DataFrame({"code": ["a", "b"], "price": [1.5, 2.5]})
KINDS: list[Fields] = [
    {"quotes": QUOTES},
    {"quotes": QUOTES.assign(note="x")},
    {"quotes": QUOTES.assign(code=QUOTES["code"].astype("category"))},
    {"x": 1},
    {"x": 2.5},
    {"x": "text"},
    {"x": None},
]


class Steps:
    """Calls a function before each step on the files of an archive, or dies before one of them, for good."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.count = 0
        self.dies_at: int | None = None
        self.look: Callable[[], None] = lambda: None
        self._is_looking = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None or self._is_looking or not event.startswith(("os.", "open", "shutil.")):
            return
        is_removal = event in ("os.remove", "os.rmdir")  # with names relative to an open folder
        if not is_removal and not any(
            str(one).startswith(self.folder) for one in arguments if isinstance(one, str | Path)
        ):
            return
        self.count += 1
        if self.dies_at is not None and self.count >= self.dies_at:
            raise Killed
        self._is_looking = True
        try:
            self.look()
        finally:
            self._is_looking = False

    @contextmanager
    def on(
        self, folder: Path, *, dies_at: int | None = None, look: Callable[[], None] = lambda: None
    ) -> Iterator[None]:
        """Watch a folder and those beside it."""
        self.folder, self.count, self.dies_at, self.look = str(folder.parent), 0, dies_at, look
        try:
            yield
        finally:
            self.folder = None


class Killed(BaseException):
    """The process is dead: nothing of it happens any more, not even in a `finally`."""


STEPS = Steps()
sys.addaudithook(STEPS)  # for good, and idle outside of `STEPS.on`


def entry(n: int, fields: Fields, *, hours: float = 0.0) -> Entry:
    return Entry(fields, topic="market", id=f"{AT + round(hours * HOUR) + n}-0")


def add(folder: Path, *entries: Entry) -> list[Path]:
    return write(folder, [one for each in entries for one in rows_of(each)])


def whole(kind: pa.DataType) -> pa.DataType:
    """Return a type with whole numbers instead of times: Python has none for some of the times that Arrow has."""
    if pa.types.is_list(kind):
        return pa.list_(whole(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(whole(field.type)) for field in kind])
    if pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        return pa.int64() if kind.bit_width == 64 else pa.int32()
    return kind


def rows(folder: Path) -> Counter[str]:
    """Return how often each row is in the archive."""
    if not any(folder.glob("topic=market/*")):
        return Counter()
    table = open_archive(folder).to_table()
    found = pa.table(
        {name: column.cast(whole(column.type)) for name, column in zip(table.column_names, table.columns, strict=True)}
    ).to_pylist()
    return Counter(repr(sorted((name, value) for name, value in row.items() if value is not None)) for row in found)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("topic=market/*/*/[0-9]*.parquet"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "archive"


FAR = ["datetime64[ms]", "timedelta64[ms]"]  # Python's own times end earlier

batches = st.lists(
    st.lists(st.tuples(st.integers(0, 60), st.sampled_from(KINDS)), min_size=1, max_size=3), min_size=1, max_size=6
)


@given(
    batches=batches,
    deaths=st.lists(st.integers(1, 60), max_size=3),
    max_bytes=st.sampled_from([1, 5_000, 2**27]),
    is_adding=st.booleans(),
)
@example(batches=[[(n, {"x": n})] for n in range(3)], deaths=[], max_bytes=2**27, is_adding=False)
@example(batches=[[(n, {"x": n})] for n in range(3)], deaths=[9, 14], max_bytes=2**27, is_adding=True)
@settings(max_examples=8)
def test_each_row_is_read_once_at_each_step_and_after_a_death_at_any(
    batches: list[list[tuple[int, Fields]]], deaths: list[int], max_bytes: int, is_adding: bool
) -> None:
    """Entries of three days, some of them late; today's, the third one's, stay apart."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "archive"
        numbers = iter(range(100))
        for batch in batches:
            add(
                folder,
                *[entry(next(numbers), fields, hours=hour) for hour, fields in sorted(batch, key=lambda of: of[0])],
            )
        expected = rows(folder)
        todays = [path for path in files(folder) if path.parent.name == f"day={TODAY}"]
        for dies_at in deaths:
            with suppress(Killed), STEPS.on(folder, dies_at=dies_at):
                compact(folder, max_bytes=max_bytes, before=TODAY)
            assert rows(folder) == expected
            if is_adding:  # also what it has written already: those rows are left out
                add(folder, *[entry(n, {"x": n}, hours=1) for n in range(200, 203)])
                expected |= Counter((rows(folder) - expected).keys())
        seen: list[list[Path]] = []

        def look() -> None:
            if (found := files(folder)) not in seen[-1:]:
                seen.append(found)
                assert rows(folder) == expected

        with STEPS.on(folder, look=look):
            done = compact(folder, max_bytes=max_bytes, before=TODAY)
        assert rows(folder) == expected
        assert {path for path in files(folder) if path.parent.name == f"day={TODAY}"} == set(todays)
        assert [path.name for path in Path(made).iterdir()] == ["archive"]
        if max_bytes == 2**27:
            assert all(len(list(path.parent.glob("[0-9]*"))) == 1 for path in files(folder) if path not in todays)
        assert compact(folder, max_bytes=max_bytes, before=TODAY) == Compacted() or max_bytes != 2**27
        assert done.files >= 2 * done.new_files


def test_a_death_at_each_single_step_leaves_an_archive_that_the_next_run_compacts(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    for n in range(3):
        add(whole, entry(n, {"x": n}))
    expected = rows(whole)
    step, is_through = 0, False
    while not is_through:
        step += 1
        folder = tmp_path / f"{step}" / "archive"
        shutil.copytree(whole, folder)
        with STEPS.on(folder, dies_at=step):
            try:
                compact(folder, before=TODAY)
                is_through = True
            except Killed:
                pass
        assert rows(folder) == expected
        compact(folder, before=TODAY)
        assert (rows(folder), len(files(folder))) == (expected, 1)
        assert [path.name for path in folder.parent.iterdir()] == ["archive"]
    assert step > 20


@every_reader
def test_every_reader_reads_a_compacted_archive_as_it_was(folder: Path, read: Callable[[str], pd.DataFrame]) -> None:
    for n, fields in enumerate([*KINDS, *KINDS]):
        add(folder, entry(n, fields, hours=n))

    def sorted_rows() -> pd.DataFrame:
        found = read(str(folder)).sort_values(["entry_id", "kind", "price"]).reset_index(drop=True)
        return found[sorted(found.columns)].astype({"code": object})

    before = sorted_rows()
    assert compact(folder, before=TODAY).new_files == 2
    pd.testing.assert_frame_equal(sorted_rows(), before)


@given(st.lists(frames(), min_size=2, max_size=4))
@example([pd.DataFrame({"far": pd.Series([2**61, n]).astype(kind)}) for n in range(2) for kind in FAR])
@settings(max_examples=8)
def test_any_frames_are_the_same_after_compaction(values: list[pd.DataFrame]) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "archive"
        for n, frame in enumerate(values):
            with suppress(EncodeError):
                add(folder, entry(n, {"f": frame}))
        if not folder.exists():  # Parquet holds none of them
            return
        before = rows(folder)
        compact(folder, before=TODAY)
        assert rows(folder) == before


def test_rows_that_come_while_files_are_merged_stay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(4):
        add(folder, entry(n, {"x": n}))
    merge = compaction._merge

    def merge_while_writing(*given: Any) -> str:
        add(folder, entry(2, {"x": 2}), entry(9, {"x": 9}))  # one that is there, and a late one
        return merge(*given)

    monkeypatch.setattr(compaction, "_merge", merge_while_writing)
    assert compact(folder, before=TODAY).files == 4
    assert sorted(open_archive(folder).to_table()["x"].to_pylist()) == [0, 1, 2, 3, 9]
    assert len(files(folder)) == 2
    add(folder, *[entry(n, {"x": n}) for n in range(10)])  # a rewind
    assert sorted(open_archive(folder).to_table()["x"].to_pylist()) == list(range(10))


def test_files_that_change_while_they_are_merged_stay_as_they_are(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [add(folder, entry(n, {"x": n}))[0] for n in range(3)]
    merge = compaction._merge

    def merge_while_one_goes(*given: Any) -> str:
        name = merge(*given)
        paths[1].unlink()
        return name

    monkeypatch.setattr(compaction, "_merge", merge_while_one_goes)
    assert compact(folder, before=TODAY) == Compacted()
    assert files(folder) == [paths[0], paths[2]]
    assert "its files changed during the compaction" in caplog.text


def test_merged_file_has_a_name_that_the_day_never_had(folder: Path) -> None:
    old = {
        path.name for n in (0, 1) for path in add(folder, *[entry(m, {"x": m}) for m in ((0, 9) if n == 0 else (3, 4))])
    }
    compact(folder, before=TODAY)
    [new] = files(folder)
    assert new.name not in old
    assert new.name.startswith(f"{AT}-0_{AT + 9}-0_")


def test_large_files_damaged_ones_and_foreign_ones_stay_as_they_are(folder: Path) -> None:
    [large] = add(folder, *[entry(n, {"x": n}) for n in range(2_000)])
    small = [add(folder, entry(2_000 + n, {"x": n}))[0] for n in range(4)]
    damaged = large.with_name(f"{AT + 2_000}-5_{AT + 2_001}-0.parquet")
    damaged.write_bytes(b"damaged")
    note = large.with_name("_note.txt")
    note.write_text("mine")
    kept = {path: (path.read_bytes(), path.stat().st_ino) for path in (large, damaged, note)}
    done = compact(folder, max_bytes=max(path.stat().st_size for path in small) * 3, before=TODAY)
    assert {path: (path.read_bytes(), path.stat().st_ino) for path in kept} == kept
    assert (done.days, done.files) == (1, 3)  # the first small file stands alone before the damaged one
    damaged.unlink()
    assert len(rows(folder)) == 2_004


def test_day_with_a_folder_of_another_program_stays_as_it_is(folder: Path) -> None:
    paths = [add(folder, entry(n, {"x": n}))[0] for n in range(3)]
    (paths[0].parent / "mine").mkdir()
    assert compact(folder, before=TODAY) == Compacted()
    assert files(folder) == paths


def test_folder_of_a_day_keeps_its_mode(folder: Path) -> None:
    paths = [add(folder, entry(n, {"x": n}))[0] for n in range(2)]
    paths[0].parent.chmod(0o2750)
    compact(folder, before=TODAY)
    assert paths[0].parent.stat().st_mode & 0o7777 == 0o2750


def test_rows_of_many_files_are_written_in_groups_of_some_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pd.DataFrame({"c": pd.Categorical(["a", "b"] * 50), "n": range(100)})
    for n in range(6):
        add(folder, entry(n, {"f": frame.assign(c=frame["c"].cat.rename_categories(["a", f"b{n}"]))}))
    monkeypatch.setattr(compaction, "_ROW_GROUP_BYTES", 2 * pq.read_table(files(folder)[0]).nbytes)
    before = rows(folder)
    compact(folder, before=TODAY)
    [path] = files(folder)
    groups = pq.read_metadata(path)
    assert [groups.row_group(n).num_rows for n in range(groups.num_row_groups)] == [200, 200, 200]
    assert rows(folder) == before


def test_two_compactions_take_turns_and_the_second_gives_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(folder, entry(0, {"x": 0}))
    monkeypatch.setattr(durable_files, "_PATIENCE", 0.02)
    with durable_files.locked(folder, ".compacting.lock"), pytest.raises(BlockingIOError):
        compact(folder, before=TODAY)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EINVAL, errno.EXDEV])
def test_file_system_that_cannot_exchange_folders_is_refused_with_a_remedy(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    paths = [add(folder, entry(n, {"x": n}))[0] for n in range(2)]

    def refuse(*_: Path) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(compaction, "exchange", refuse)
    with pytest.raises(SettingsError, match="expected a file system on which two folders can exchange"):
        compact(folder, before=TODAY)
    assert files(folder) == paths
    assert list(folder.parent.iterdir()) == [folder]


def test_without_hard_links_the_other_files_are_copied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(3):
        add(folder, entry(n, {"x": n}))
    (files(folder)[0].parent / "_note.txt").write_text("mine")

    def refuse(path: Path, _: Path) -> None:
        raise OSError(errno.EPERM, "no links", str(path))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    compact(folder, before=TODAY)
    assert sorted(open_archive(folder).to_table()["x"].to_pylist()) == [0, 1, 2]
    assert (files(folder)[0].parent / "_note.txt").read_text() == "mine"


def test_archive_of_0_1_0_waits_for_its_first_new_write(folder: Path) -> None:
    paths = [add(folder, entry(n, {"x": n}))[0] for n in range(2)]
    shutil.rmtree(paths[0].parents[1] / "day=0001-01-01")
    assert compact(folder, before=TODAY) == Compacted()
    add(folder, entry(5, {"x": 5}))
    assert compact(folder, before=TODAY).files == 3


def test_missing_archive_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        compact(tmp_path / "archive")


def test_the_readers_are_those_of_the_other_tests() -> None:
    assert {"pandas", "pyarrow", "open_archive"} <= READERS.keys()
