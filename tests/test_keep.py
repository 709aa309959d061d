"""How much is kept, in words: of a topic, and in memory while Redis is away."""

import pytest

from tasks import SettingsError
from tasks.keep import DEFAULT_BUFFER, Buffer, Keep


@pytest.mark.parametrize(
    ("text", "keep"),
    [
        (4_000, Keep(4_000)),
        ("4000", Keep(4_000)),
        ("4000, 1h, 500MB", Keep(4_000, 3_600_000, 500_000_000)),
        ("1.5GiB,7 days", Keep(0, 7 * 86_400_000, 3 * 2**29)),
        ("10kb", Keep(max_bytes=10_000)),
    ],
)
def test_what_is_kept_is_said_in_entries_age_and_size(text: int | str, keep: Keep) -> None:
    assert Keep.of(text) == keep
    assert Keep.of(str(keep)) == keep
    assert Keep.unpacked(keep.packed()) == keep


@pytest.mark.parametrize(
    "text", [0, -1, "", "0", "0s", "-1h", "1h, 2h", "5, 6", "1MB, 2KB", "soon", "1.5", "4000,", "1e3", "nan"]
)
def test_what_says_nothing_to_keep_is_refused(text: int | str) -> None:
    with pytest.raises(SettingsError, match="keep: expected"):
        Keep.of(text)


@pytest.mark.parametrize(
    ("text", "buffer"),
    [
        (50, Buffer(entries=50)),
        ("10MB", Buffer(max_bytes=10_000_000)),
        ("50, 1KiB", Buffer(50, 1024)),
        (DEFAULT_BUFFER, Buffer()),
    ],
)
def test_what_may_wait_in_memory_is_said_in_entries_and_size(text: int | str, buffer: Buffer) -> None:
    assert Buffer.of(text) == buffer
