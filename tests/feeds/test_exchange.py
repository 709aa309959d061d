"""The simulated exchange depends only on seed and second, and behaves like a market."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import SettingsError
from tasks.feeds.exchange import COLUMNS, Exchange

MIDNIGHT = 1_795_449_600  # 2026-11-24 00:00:00 in China
SECONDS = st.integers(MIDNIGHT, MIDNIGHT + 40 * 86400)

EXCHANGES = {seed: Exchange(seed, codes=400) for seed in (0, 1)}


def traded(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["now"] > 0]


def test_a_snapshot_is_the_whole_market_in_the_columns_of_the_live_feed() -> None:
    frame = Exchange().snapshot(MIDNIGHT + 36_000.7)
    assert frame.shape == (5000, 32)
    assert list(frame.columns) == COLUMNS
    assert frame.index.name == "code"
    assert frame.index.is_unique
    assert frame.index.str.fullmatch(r"\d{6}").all()
    assert {"600", "000", "300", "688", "150"} <= set(frame.index.str[:3])
    assert set(frame["date"]) == {"2026-11-24"}
    assert set(frame["time"]) == {"10:00:00"}
    whole = {column for column in COLUMNS if column.endswith("_volume")} | {"turnover"}
    assert {column for column in COLUMNS if frame[column].dtype == np.int64} == whole
    assert {column for column in COLUMNS if frame[column].dtype == np.float64} == {*COLUMNS} - whole - {
        "name",
        "date",
        "time",
    }


@given(second=SECONDS, other=SECONDS, seed=st.sampled_from([0, 1]))
def test_quotes_depend_only_on_seed_and_second(second: int, other: int, seed: int) -> None:
    EXCHANGES[seed].snapshot(other)
    frame = EXCHANGES[seed].snapshot(second)
    pd.testing.assert_frame_equal(frame, Exchange(seed, codes=400).snapshot(second))
    at = datetime.fromtimestamp(second, UTC) + timedelta(milliseconds=900)
    pd.testing.assert_frame_equal(frame, EXCHANGES[seed].snapshot(at))
    assert not frame["now"].equals(EXCHANGES[1 - seed].snapshot(second)["now"])


def test_another_process_sees_the_same_quotes() -> None:
    program = f"from tasks.feeds.exchange import Exchange; print(Exchange(3, codes=50).snapshot({MIDNIGHT + 50_000}).to_csv())"
    there = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert there.strip() == Exchange(3, codes=50).snapshot(MIDNIGHT + 50_000).to_csv().strip()


def test_a_code_has_the_same_quotes_in_an_exchange_of_any_size() -> None:
    small = Exchange(5, codes=70).snapshot(MIDNIGHT + 40_000)
    pd.testing.assert_frame_equal(small, Exchange(5).snapshot(MIDNIGHT + 40_000).loc[small.index])


@given(second=SECONDS)
def test_prices_are_ticks_of_a_cent_within_ten_percent_of_the_close(second: int) -> None:
    frame = traded(EXCHANGES[0].snapshot(second))
    for column in [
        "open",
        "close",
        "now",
        "high",
        "low",
        *(f"{side}{n}" for side in ("bid", "ask") for n in range(1, 6)),
    ]:
        cents = frame[column] * 100
        assert np.allclose(cents, cents.round(), atol=1e-6), column
        if column != "close":
            moved = frame[column][frame[column] > 0] / frame["close"]
            assert moved.dropna().between(0.9 - 1e-9, 1.1 + 1e-9).all(), column


@given(second=SECONDS)
def test_bids_are_below_asks_and_the_price_is_the_best_bid_or_ask(second: int) -> None:
    frame = traded(EXCHANGES[0].snapshot(second))
    both = frame[(frame["bid1"] > 0) & (frame["ask1"] > 0)]
    assert len(both) > 300
    assert (both["bid1"] < both["ask1"]).all()
    assert ((both["now"] == both["bid1"]) | (both["now"] == both["ask1"])).all()
    assert (frame["buy"] == frame["bid1"]).all()
    assert (frame["sell"] == frame["ask1"]).all()
    for side, sign in (("bid", -1), ("ask", 1)):
        for n in range(1, 5):
            deeper = frame[frame[f"{side}{n + 1}"] > 0]
            assert (sign * (deeper[f"{side}{n + 1}"] - deeper[f"{side}{n}"]) > 0).all()
        for n in range(1, 6):
            assert ((frame[f"{side}{n}"] > 0) == (frame[f"{side}{n}_volume"] > 0)).all()


@given(second=SECONDS, later=st.integers(1, 7200))
def test_highs_lows_and_volumes_of_a_day_only_grow_and_hold_the_price(second: int, later: int) -> None:
    later = min(second + later, (second + 28_800) // 86400 * 86400 + 86400 - 28_801)  # the same day in China
    before, after = EXCHANGES[0].snapshot(second), EXCHANGES[0].snapshot(later)
    assert (after["turnover"] >= before["turnover"]).all()
    assert (after["volume"] >= before["volume"]).all()
    assert (after["high"] >= before[["high", "now"]].max(axis=1)).all()
    assert (after["low"] <= before[["low", "now"]].min(axis=1)).all()
    assert after["now"].between(after["low"], after["high"]).all()
    assert (after[["open", "close"]] == before[["open", "close"]]).all(axis=None)


def test_prices_move_but_not_by_much_between_two_snapshots_and_over_midnight() -> None:
    exchange = Exchange(0)
    for second, most in ((MIDNIGHT + 36_000, 0.02), (MIDNIGHT + 86_398, 0.2)):
        before, after = exchange.snapshot(second), exchange.snapshot(second + 5)
        both = (before["now"] > 0) & (after["now"] > 0)
        moved = (after["now"] / before["now"] - 1)[both].abs()
        assert (moved > 0).mean() > 0.1
        assert moved.max() < most
        assert moved.median() < 0.005


def test_there_is_something_to_drop() -> None:
    frame = Exchange(0).snapshot(MIDNIGHT + 36_000)
    suspended = frame[frame["now"] == 0]
    assert 20 < len(suspended) < 100
    assert (suspended.drop(columns=["name", "close", "date", "time"]) == 0).all(axis=None)
    assert (suspended["close"] > 0).all()
    assert ((frame["now"] > 0) & (frame["bid1"] == 0)).sum() > 20
    assert ((frame["now"] > 0) & (frame["ask1_volume"].between(1, 100))).sum() > 100


def test_a_board_is_a_part_of_the_market() -> None:
    exchange = Exchange(0, codes=500)
    boards = [exchange.snapshot(MIDNIGHT, board=board) for board in ("sh", "sz", "bj")]
    assert all(len(board) for board in boards)
    pd.testing.assert_frame_equal(pd.concat(boards).sort_index(), exchange.snapshot(MIDNIGHT).sort_index())


@pytest.mark.parametrize("wrong", [{"codes": 0}, {"codes": 5001}, {"seed": -1}])
def test_invalid_parameters_of_the_exchange_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match="expected"):
        Exchange(**wrong)


def test_an_unknown_board_is_refused() -> None:
    with pytest.raises(SettingsError, match="'all', 'sh', 'sz' or 'bj', got 'nyse'"):
        Exchange(0, codes=10).snapshot(MIDNIGHT, board="nyse")
