"""Durations in all forms that people and programs write."""

from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.checks import seconds
from tasks.errors import SettingsError
from tasks.reservoir.keep import Keep

UNITS = {"w": 604_800, "d": 86_400, "h": 3600, "min": 60, "s": 1, "ms": Fraction(1, 1000)}
WORDS = {"w": "weeks", "d": "days", "h": "hr", "min": "m", "s": "sec", "ms": "milliseconds"}
ISO = {"d": "D", "h": "H", "min": "M", "s": "S"}
decimals = st.decimals(min_value=1, max_value=1_999, places=3).map(str)
numbers = st.integers(1, 1_999).map(str)


@given(
    parts=st.dictionaries(st.sampled_from(list(UNITS)), numbers, min_size=1),
    last=st.none() | decimals,
    gap=st.sampled_from(["", " "]),
    write=st.sampled_from([dict(zip(UNITS, UNITS, strict=True)), {unit: unit.upper() for unit in UNITS}, WORDS]),
)
def test_units_from_the_longest_to_the_shortest_add_up(
    parts: dict[str, str], last: str | None, gap: str, write: dict[str, str]
) -> None:
    used = [unit for unit in UNITS if unit in parts]
    written = parts | ({used[-1]: last} if last else {})
    total = sum(Fraction(written[unit]) * UNITS[unit] for unit in used)
    assert seconds(gap.join(f"{written[unit]}{gap}{write[unit]}" for unit in used)) == float(total)


@given(
    parts=st.dictionaries(st.sampled_from(list(ISO)), numbers, min_size=1),
    last=st.none() | decimals,
    mark=st.sampled_from(".,"),
    zeros=st.sampled_from(["", "0Y", "0Y0M"]),
)
def test_iso_durations_are_read_as_the_standard_defines_them(
    parts: dict[str, str], last: str | None, mark: str, zeros: str
) -> None:
    used = [unit for unit in ISO if unit in parts]
    written = parts | ({used[-1]: last} if last else {})
    total = sum(Fraction(written[unit]) * UNITS[unit] for unit in used)
    days = "".join(f"{written[unit]}D" for unit in used if unit == "d")
    times = "".join(f"{written[unit]}{ISO[unit]}" for unit in used if unit != "d")
    text = f"P{zeros}{days}{'T' * bool(times)}{times}".replace(".", mark)
    assert seconds(text) == float(total)
    if not times:
        assert seconds(f"P{parts['d']}W") == 7 * 86_400 * int(parts["d"])


def test_number_without_a_unit_means_seconds() -> None:
    assert (seconds("5"), seconds("1e3"), seconds(".5"), seconds(0.5), seconds(7)) == (5, 1000, 0.5, 0.5, 7)
    assert (seconds(np.int64(5)), seconds(np.float32(0.5)), seconds(Decimal("1.5"))) == (5, 0.5, 1.5)  # type: ignore[arg-type]
    assert seconds(timedelta(minutes=2)) == seconds(pd.Timedelta("2min")) == 120


@pytest.mark.parametrize("text", ["P1M", "P1Y", "P0.5M", "P1Y2M3D", "P1M1D"])
def test_iso_durations_without_an_exact_length_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=f"every: expected .*, got '{text}'; years and months have no exact length"):
        seconds(text, name="every")
    with pytest.raises(SettingsError, match="keep: expected"):
        Keep.of(text)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "s", "5x", "-1s", "nan", "inf", "1.5.5s", "1..5s", "1_0s", "5s ", "1h,30min", "\u0665s", "1:30:00", "1e3s",
        "30min1h", "1h1h", "1h 60m 1min", "1.5h30min", "1 M", "5M",
        "P", "PT", "P1DT", "P1H", "P1S", "PT1D", "PT1W", "P1W1D", "PT1M1H", "PT1.5H1M", "PT.5H", "pt1h", "-PT1H", "P-1D", "PT1,5,5S",
        True, None, b"5s", np.timedelta64(5_000, "ms"), pd.NaT, float("nan"),
    ],
)  # fmt: skip
def test_values_that_are_not_durations_are_refused(text: object) -> None:
    with pytest.raises(SettingsError, match="timeout: expected a duration"):
        seconds(text, name="timeout")  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["0ms", 0, "PT0S", -1, "40000d", "9" * 400, "9" * 400 + "s", float("inf"), "1e99"])
def test_durations_of_zero_or_above_a_century_are_refused(text: str | float) -> None:
    with pytest.raises(SettingsError, match="lease: expected a duration above zero and of at most 100 years"):
        seconds(text, name="lease")


@pytest.mark.parametrize("text", ["1,5s", "2,5 h", "1,500ms"])
def test_refusal_of_a_decimal_comma_names_the_valid_form(text: str) -> None:
    with pytest.raises(SettingsError, match="run_for: expected .*; write fractions with a decimal point, such as 1.5s"):
        seconds(text, name="run_for")
