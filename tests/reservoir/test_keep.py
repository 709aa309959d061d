"""Limits in words: how much a topic keeps, and how much waits in memory during a Redis outage."""

import pytest

from tasks import SettingsError
from tasks.reservoir.keep import DEFAULT_BACKLOG, BacklogLimits, Keep


@pytest.mark.parametrize(
    ("text", "keep"),
    [
        (4_000, Keep(4_000)),
        ("4000", Keep(4_000)),
        ("4000, 1h, 500MB", Keep(4_000, 3_600_000, 500_000_000)),
        ("1.5GiB,7 days", Keep(0, 7 * 86_400_000, 3 * 2**29)),
        ("10kb", Keep(max_bytes=10_000)),
        ("PT3.5H, 1TB", Keep(age_ms=12_600_000, max_bytes=10**12)),
        ("0.7GB", Keep(max_bytes=700_000_000)),
        ("1h30min, 2 tib", Keep(age_ms=5_400_000, max_bytes=2 * 2**40)),
    ],
)
def test_keep_is_parsed_from_entries_age_and_size(text: int | str, keep: Keep) -> None:
    assert Keep.of(text) == keep
    assert Keep.of(str(keep)) == keep
    assert Keep.unpacked(keep.packed()) == keep


@pytest.mark.parametrize(
    "text",
    [
        0, -1, "", "0", "0s", "-1h", "1h, 2h", "5, 6", "1MB, 2KB", "soon", "1.5", "4000,", "1e3", "nan",
        "0.5B", "1.5.5MB", "5Mb/s", "5 M", "P1M", "\u0665", 2**53 + 1, "9000000TB",
    ],
)  # fmt: skip
def test_keep_without_a_valid_limit_is_refused(text: int | str) -> None:
    with pytest.raises(SettingsError, match="keep: expected"):
        Keep.of(text)


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        (50, BacklogLimits(entries=50)),
        ("10MB", BacklogLimits(max_bytes=10_000_000)),
        ("50, 1KiB", BacklogLimits(50, 1024)),
        (DEFAULT_BACKLOG, BacklogLimits()),
    ],
)
def test_backlog_limits_are_parsed_from_entries_and_size(text: int | str, limits: BacklogLimits) -> None:
    assert BacklogLimits.of(text) == limits


@pytest.mark.parametrize("text", ["1,5h", "4000,1h", "1,5s, 4000", "10,000", "PT1,5H", "500MB, 4000,1h"])
def test_comma_between_digits_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"keep: expected a space behind the comma between two limits"):
        Keep.of(text)


def test_refusal_of_an_age_names_the_valid_form() -> None:
    with pytest.raises(
        SettingsError, match=r"keep: expected .*, got '4000, 5M'; write min for minutes; a month has no"
    ):
        Keep.of("4000, 5M")
