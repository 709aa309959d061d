"""Durations as people write them."""

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.errors import SettingsError
from tasks.settings import seconds


@example(number="1.563", gap="", unit="min")
@given(
    number=st.decimals(min_value=1, max_value=10_000, places=3).map(str) | st.integers(1, 10_000).map(str),
    gap=st.sampled_from(["", " "]),
    unit=st.sampled_from(["ms", "s", "min", "h", "d"]),
)
def test_a_duration_is_what_pandas_says_of_it(number: str, gap: str, unit: str) -> None:
    theirs = pd.Timedelta(f"{number}{gap}{unit.replace('d', 'D')}")  # pandas 3 warns of 'd'
    assert seconds(f"{number}{gap}{unit}") == pytest.approx(theirs.total_seconds(), abs=2e-9)  # it cuts nanoseconds off


def test_a_bare_number_is_of_seconds_and_longer_texts_are_for_pandas() -> None:
    assert (seconds("5"), seconds("1e3"), seconds("1h30min"), seconds("2 days")) == (5, 1000, 5400, 172_800)


@pytest.mark.parametrize("text", ["", "s", "5x", "-1s", "0ms", "nan", "inf"])
def test_what_is_no_duration_above_zero_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="expected a duration"):
        seconds(text)
