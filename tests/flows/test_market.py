"""The market's inlet and outlets, without Redis and Prefect."""

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from streamz import Stream

import flows
from flows import market
from flows.market import archive, bars, clean, largest, movers, quotes, sample, turnover, with_changes, with_prefix
from tasks import Entry
from tasks.archive.dataset import open_kind
from tasks.feeds.exchange import COLUMNS, Exchange
from tasks.testing import Pushed, drain, entries, frames, pumped

AT = 1_795_500_000

PRICES = st.sampled_from([0.0, math.nan, 0.01, 9.99, 10.0, 10.01, -1.0, 1e6])
CODES = st.sampled_from(["150001", "150002", "150100", "600000", "000150", "300150"])
SNAPSHOTS = frames(
    {
        "code": ("str", CODES),
        **dict.fromkeys(["now", "buy", "bid1"], ("float64", PRICES)),
        "ask1_volume": ("int64", st.sampled_from([0, 99, 100, 101, 5000])),
    },
    index="code",
    max_rows=30,
)


def snapshot(rows: list[tuple[str, float, float, float, int]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["code", "now", "buy", "bid1", "ask1_volume"])
    return frame.astype({"code": "str", "ask1_volume": "int64"}).set_index("code")


def run_movers(*frames: pd.DataFrame, **parameters: object) -> list[pd.DataFrame]:
    return drain(movers.build, [{"quotes": frame} for frame in frames], **parameters).results


def model(frame: pd.DataFrame, prefix: str) -> list[tuple[str, float, float]]:
    """Return code, p_change and change of one snapshot's rows, as movers computes them before it samples."""
    kept, before = [], math.nan
    for code, row in zip(frame.index, frame.to_dict("records"), strict=True):
        if not (row["now"] > 0 and row["buy"] > 0 and row["bid1"] > 0 and row["ask1_volume"] > 100):
            continue
        kept.append((code, (row["buy"] - row["now"]) / row["now"], row["now"] - before))
        before = row["now"]
    return [row for row in kept if row[0].startswith(prefix)]


ONE = snapshot([("150001", 10.0, 9.0, 9.0, 500)])


@given(
    entries(quotes=SNAPSHOTS, seconds=st.integers(0, 59), max_size=6),
    st.sampled_from(["150", "6", ""]),
    st.none() | st.integers(0, 7),
)
@example([{"quotes": ONE.assign(now=float(n))} for n in (1, 2, 3)], "", 4)  # killed after the last entry was done
@example([*({"quotes": ONE.assign(now=float(n))} for n in (1, 2, 3)), {"seconds": 7}], "", 4)
def test_movers_equal_a_model_for_any_quotes_among_other_entries_even_after_a_crash(
    pushed: list[Pushed], prefix: str, crash_after: int | None
) -> None:
    run = drain(movers.build, pushed, prefix=prefix, sample_size=1000, top=1000, crash_after=crash_after)
    snapshots = [entry for entry in pushed if "quotes" in entry]
    wanted = [sorted(model(entry["quotes"], prefix), key=lambda row: -row[1]) for entry in snapshots]

    def windows(first: int, end: int) -> list[list[tuple[str, float, float]]]:
        """Return the results of a pipeline that begins at one snapshot and ends before another."""
        return [[row for rows in wanted[max(first, n - 2) : n + 1] for row in rows] for n in range(first, end)]

    if crash_after is None:
        expected = windows(0, len(wanted))
    else:
        given = sum("quotes" in entry for entry in pushed[:crash_after])
        # The acknowledgement of the last entry is lost, and those in the window are pending: the two before the next.
        acknowledged = pushed if crash_after > len(pushed) else pushed[: max(0, crash_after - 1)]
        first = max(0, sum("quotes" in entry for entry in acknowledged) - 2)
        expected = windows(0, given) + windows(first, len(wanted))
    got = [list(zip(one.index, one["p_change"], one["change"], strict=True)) for one in run.results]
    assert len(got) == len(expected)
    for rows, window in zip(got, expected, strict=True):
        assert sorted(map(repr, rows)) == sorted(map(repr, window))
        assert [row[1] for row in rows] == [row[1] for row in window]
    assert list(map(id, run.pending)) == list(map(id, snapshots[-2:])), "the next window has them, too"
    assert run.dead == []


@given(SNAPSHOTS, st.integers(0, 20), st.integers(0, 12), st.none() | st.integers(0, 99))
def test_the_largest_of_a_sample_are_kept_or_all_if_there_are_fewer(
    frame: pd.DataFrame, size: int, top: int, seed: int | None
) -> None:
    [result] = run_movers(frame, prefix="", sample_size=size, top=top, seed=seed)
    possible = model(frame, "")
    assert len(result) == min(size, top, len(possible))
    assert set(result["p_change"]) <= {row[1] for row in possible}
    assert result["p_change"].is_monotonic_decreasing


def test_change_is_relative_to_the_previous_clean_row_of_any_code() -> None:
    rows = [("150001", 10.0, 9.0, 9.0, 500), ("600000", 30.0, 30.0, 30.0, 500), ("600001", 0.0, 1.0, 1.0, 500)]
    [result] = run_movers(snapshot([*rows, ("150002", 31.0, 31.0, 31.0, 500)]), prefix="150")
    assert result.loc["150002", ["p_change", "change"]].to_list() == [0.0, 1.0]
    assert result.loc["150001", "p_change"] == -0.1
    assert math.isnan(result.loc["150001", "change"])


def test_the_same_seed_draws_the_same_sample_and_no_seed_another() -> None:
    received = Exchange(0).snapshot(AT)
    seeded = [run_movers(received, seed=3)[0] for _ in range(2)]
    pd.testing.assert_frame_equal(*seeded)
    unseeded = {tuple(run_movers(received, prefix="6")[0].index) for _ in range(3)}
    assert len(unseeded) > 1


def test_the_largest_of_the_sample_are_kept_not_a_sample_of_the_largest() -> None:
    frame = Exchange(0).snapshot(AT)
    everything = with_prefix(with_changes(clean(frame)), "6")
    drawn = sample(everything, 15, 5)
    pd.testing.assert_frame_equal(run_movers(frame, prefix="6", seed=5)[0], largest(drawn, 10))


def test_by_default_each_result_is_the_ten_funds_of_each_of_the_last_three_snapshots() -> None:
    frames = [Exchange(0).snapshot(AT + 5 * n) for n in range(5)]
    run = drain(movers.build, [{"quotes": frame} for frame in frames], into="signals")
    assert [len(result) for result in run.results] == [10, 20, 30, 30, 30]
    assert all(result.index.str.startswith("150").all() for result in run.results)
    assert list(run.results[-1]["time"].unique()) == [frame["time"].iloc[0] for frame in frames[2:]]
    assert run.entries("signals")[-1]["signals"].equals(run.results[-1])


def test_movers_keep_to_quotes_when_other_entries_share_the_topic() -> None:
    frame = Exchange(0).snapshot(AT)
    others = [{"seconds": 1}, {"other": frame}]
    run = drain(movers.build, others)
    assert (run.results, run.acked) == ([], others)
    assert len(drain(movers.build, [*others, {"quotes": frame}, *others]).results) == 1


def test_nothing_to_see_is_an_empty_result_and_no_error() -> None:
    frame = Exchange(0, codes=50).snapshot(AT)
    suspended = frame.assign(now=0.0, bid1=0.0, buy=0.0)
    results = run_movers(frame.iloc[:0], suspended, frame.assign(now=np.nan), prefix="")
    assert [len(result) for result in results] == [0, 0, 0]
    assert {"p_change", "change", "now"} <= set(results[-1].columns)


def test_stages_leave_their_input_unchanged() -> None:
    frame = Exchange(0, codes=50).snapshot(AT)
    before = frame.copy(deep=True)
    source = Stream()  # an entry from Redis would be a copy
    results = movers.build(source, prefix="").sink_to_list()
    for _ in range(2):
        source.emit({"quotes": frame})
    assert len(results) == 2
    pd.testing.assert_frame_equal(frame, before)


def test_a_pump_gives_the_whole_simulated_market_by_default() -> None:
    [entry] = pumped(quotes.pump)
    frame = entry["quotes"]
    assert frame.shape == (5000, 32)
    assert list(frame.columns) == COLUMNS
    assert set(quotes.pump(board="bj").index) < set(frame.index)
    assert not quotes.pump(seed=1)["close"].equals(frame["close"])


def test_the_sina_feed_is_asked_for_the_board(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.feeds.sina.fetch", lambda board: pd.DataFrame({"board": [board]}))
    assert quotes.pump(board="sh", feed="sina")["board"].item() == "sh"


TRADES = st.lists(
    st.dictionaries(
        st.sampled_from(["600000", "600001", "000001"]),
        st.tuples(st.integers(0, 50), st.sampled_from([0.0, 1.5, 10.0])),
        min_size=1,
    ),
    min_size=1,
    max_size=6,
)


def sums_of_the_day(snapshots: list[dict[str, tuple[int, float]]]) -> dict[str, tuple[float, float]]:
    """Return shares and yuan by code, as a loop over rows adds them up."""
    known: dict[str, int] = {}
    sums: dict[str, tuple[float, float]] = {}
    for one in snapshots:
        for code, (shares, price) in one.items():
            before = known.get(code, shares)
            if shares < before:
                before, sums[code] = 0, (0.0, 0.0)
            held, yuan = sums.get(code, (0.0, 0.0))
            sums[code] = held + shares - before, yuan + (shares - before) * price
            known[code] = shares
    return {code: pair for code, pair in sums.items() if pair[0] > 0}


@given(snapshots=TRADES, crash_after=st.none() | st.integers(1, 6))
@example(snapshots=[{"600000": (10, 1.5)}, {"600000": (30, 10.0)}, {"600000": (5, 1.5)}], crash_after=2)
def test_turnover_equals_a_model_over_new_codes_new_days_and_a_crash(
    snapshots: list[dict[str, tuple[int, float]]], crash_after: int | None
) -> None:
    pushed = [
        {
            "quotes": pd.DataFrame(
                {
                    "name": [f"n{code}" for code in quotes],
                    "turnover": [shares for shares, _ in quotes.values()],
                    "now": [price for _, price in quotes.values()],
                },
                index=pd.Index(quotes, name="code"),
            )
        }
        for quotes in snapshots
    ]
    run = drain(turnover.build, pushed, top=10, into="turnover", crash_after=crash_after)
    assert run.pending == []
    results = [entry["turnover"] for entry in run.entries("turnover")]
    wanted = [sums for n in range(1, len(snapshots) + 1) if (sums := sums_of_the_day(snapshots[:n]))]
    found = [
        {code: (row["shares"], row["yuan"]) for code, row in zip(one.index, one.to_dict("records"), strict=True)}
        for one in results
    ]
    assert found == wanted
    for one in results:
        assert list(one["vwap"]) == pytest.approx(list(one["yuan"] / one["shares"]))
        assert list(one["yuan"]) == sorted(one["yuan"], reverse=True)
        assert one["bar"].str.len().between(1, 20).all()


def model_of_bars(snapshots: pd.DataFrame) -> pd.DataFrame:
    """Return the bars of all snapshots, whose rows have time, code, now and the shares of the day so far."""
    rows = snapshots.sort_values("time", kind="stable")
    before = rows.groupby("code")["turnover"].shift().fillna(rows["turnover"])
    rows = rows.assign(shares=(rows["turnover"] - before).where(rows["turnover"] >= before, rows["turnover"]))
    return (
        rows[rows["now"] > 0]
        .groupby([pd.Grouper(key="time", freq="1min"), "code"])
        .agg(
            open=("now", "first"),
            high=("now", "max"),
            low=("now", "min"),
            close=("now", "last"),
            volume=("shares", "sum"),
        )
    )


@given(
    snapshots=st.lists(
        st.dictionaries(
            st.sampled_from(["600000", "000001", "300001"]),
            st.tuples(st.integers(0, 100), st.integers(0, 5).map(float)),
            min_size=1,
        ),
        min_size=2,
        max_size=30,
    ),
    crash_after=st.none() | st.integers(1, 29),
)
def test_bars_are_those_of_pandas_over_all_snapshots_at_once(
    snapshots: list[dict[str, tuple[int, float]]], crash_after: int | None
) -> None:
    times = pd.date_range("2026-03-02T01:29:50", periods=len(snapshots), freq="5s", tz="UTC")
    pushed, rows = [], []
    for time, snapshot in zip(times, snapshots, strict=True):
        frame = pd.DataFrame(
            {"turnover": [shares for shares, _ in snapshot.values()], "now": [price for _, price in snapshot.values()]},
            index=pd.Index(snapshot, name="code"),
        )
        ms = time.value // 1_000_000
        pushed.append(Entry({"quotes": frame}, topic="market", id=f"{ms + 700}-0", time_ms=ms))
        rows.append(frame.reset_index().assign(time=time))
    run = drain(bars.build, pushed, code="600000", crash_after=crash_after)
    expected = model_of_bars(pd.concat(rows))
    found = [entry["bars"].reset_index().rename(columns={"start": "time"}) for entry in run.entries("bars")]
    assert (len(found), run.pending, run.dead) == (len(expected.index.unique("time")), [], [])
    if found:
        together = pd.concat(found).set_index(["time", "code"])[[*expected.columns]].sort_index()
        pd.testing.assert_frame_equal(
            together, expected.sort_index(), check_dtype=False, check_index_type=False, check_freq=False
        )
    if shown := [one for one in run.results if len(one)]:
        of_code = expected.xs("600000", level="code").tail(20).iloc[::-1]
        assert list(shown[-1]["close"]) == list(of_code["close"])
        assert shown[-1]["candle"].str.len().between(1, 30).all()


def test_the_archive_keeps_every_entry_of_a_topic(tmp_path: Path) -> None:
    frame = Exchange(0, codes=20).snapshot(AT)
    pushed = [{"quotes": frame}, {"seconds": 7}, {"seconds": 8}]
    run = drain(archive.build, pushed, topics="market", folder=str(tmp_path), file_entries=2)
    assert run.acked == pushed, "a stop writes the held entries"
    assert open_kind(tmp_path, "market", "quotes").count_rows() == 20
    assert open_kind(tmp_path, "market", "seconds").to_table()["seconds"].to_pylist() == [7, 8]


@pytest.mark.parametrize("name", ["clock", "vitals", "market"])
def test_a_flow_file_can_be_loaded_by_its_path_more_than_once(name: str) -> None:
    path = Path(flows.__file__).with_name(f"{name}.py")

    def load() -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    assert set(load().__all__) == set(load().__all__)


def test_every_parameter_of_the_markets_flows_has_a_description_for_the_form() -> None:
    for made in (market.quotes, market.movers, market.archive):
        properties = made.parameters.properties
        assert all(properties[name].get("description") for name in properties), made.name
    assert "source" not in movers.parameters.properties
