"""Topics of any names have folders of their own in an archive, and keep their names there."""

import tempfile
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from tasks.archive.dataset import open_archive, open_kind, rows_of, write
from tasks.archive.rows import kind_folder
from tasks.reservoir.entry import Entry
from tests.support.topics import topic_names

AT = 1_795_500_000_000  # 2026-11-24 06:40 UTC
SHORT = 40  # bytes of a name that is not replaced by its hash, even with each byte quoted


@given(st.lists(topic_names, min_size=2, max_size=4, unique=True))
@example(["..", ".", "/", "a/b"])
@example(["a", "A", "%41", "topic=a"])
@example(["行" * 66, "行" * 65 + "情", "a" * 200])
def test_topics_of_any_names_have_folders_of_their_own(names: list[str]) -> None:
    folders = {kind_folder(name, "n") for name in names}
    assert len(folders) == len(names)
    assert all(len(path.parts) == 2 and len(part.encode()) <= 255 for path in folders for part in path.parts)
    with tempfile.TemporaryDirectory() as made:
        entries = [Entry({"n": n}, topic=name, id=f"{AT}-{n}") for n, name in enumerate(names)]
        write(Path(made), [row for entry in entries for row in rows_of(entry)])
        for entry in entries:
            assert open_kind(made, entry.topic, "n").to_table()["n"].to_pylist() == [entry["n"]]
        found = {row["n"]: row["topic"] for row in open_archive(made).to_table().to_pylist()}
    assert len(set(found.values())) == len(names)
    assert all(found[n] == name for n, name in enumerate(names) if len(name.encode()) <= SHORT)
