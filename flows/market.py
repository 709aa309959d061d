"""The stock market: all quotes every five seconds, the widest movers, bars of each minute, and an archive."""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

import pandas as pd
from streamz import Stream

from flows import inlet, outlet
from flows.topics import BARS_KEEP, MARKET, MARKET_KEEP
from tasks.base.state_folder import state_dir
from tasks.feeds.exchange import Exchange
from tasks.nodes import time_window as windows  # noqa: F401 - registers Stream.time_window
from tasks.nodes import to_parquet as parquet  # noqa: F401 - registers Stream.to_parquet
from tasks.reservoir.entry import has

__all__ = ["archive", "bars", "movers", "quotes", "turnover"]

_THIN = 100
_BLOCK, _BAR = "\N{FULL BLOCK}", 20  # the longest bar of a table
_FALLING, _WICK, _CANDLE = "\N{LIGHT SHADE}", "\N{BOX DRAWINGS LIGHT HORIZONTAL}", 30  # the width of a candle

_exchange = lru_cache(maxsize=8)(Exchange)


# zstd makes 455 KB of a snapshot's 1.5 MB in 4.5 ms, lz4 704 KB in 2.7 ms.
@inlet(topic=MARKET, every="5s", threads=4, keep=MARKET_KEEP, compression="zstd")
def quotes(
    board: Literal["all", "sh", "sz", "bj"] = "all",
    feed: Literal["simulated", "sina"] = "simulated",
    seed: int = 0,
) -> pd.DataFrame:
    """Push the quotes of all A-shares, one row per code.

    Args:
        board: Exchange of the codes - all, Shanghai (sh), Shenzhen (sz) or Beijing (bj).
        feed: Source of the quotes - a simulated exchange that never closes, or live quotes from Sina.
        seed: Seed of the simulated exchange. Each seed is another market.
    """
    if feed == "sina":
        from tasks.feeds import sina  # noqa: PLC0415 - needs an extra

        return sina.fetch(board)
    return _exchange(seed).snapshot(datetime.now(UTC), board=board)


@outlet(topics=MARKET, group="movers", into="signals")
def movers(
    source: Stream,
    prefix: str = "150",
    sample_size: int = 15,
    top: int = 10,
    seed: int | None = None,
) -> Stream:
    """Show the codes of a sample whose bid is highest relative to the price, over the last three snapshots.

    Args:
        prefix: Prefix of the codes, such as 150, 60 or 300. Sina no longer lists any with 150.
        sample_size: Number of codes sampled from each snapshot.
        top: Number of codes kept from each sample.
        seed: Seed of the sample; the same quotes give the same sample. If empty, each sample is random.
    """
    snapshots = source.filter(has("quotes")).pluck("quotes")
    changes = snapshots.map(clean).map(with_changes).map(with_prefix, prefix)
    largest_changes = changes.map(sample, sample_size, seed).map(largest, top)
    return largest_changes.sliding_window(3).map(pd.concat)


@outlet(topics=MARKET, group="turnover", into="turnover")
def turnover(source: Stream, top: int = 10) -> Stream:
    """Show the codes that were traded most today, with their volume-weighted average price, over restarts.

    A restart continues with the sums of the day; midnight in China begins a new one.

    Args:
        top: Number of codes shown.
    """
    snapshots = source.filter(has("quotes")).pluck("quotes")
    return snapshots.accumulate(
        add_trades, start=None, returns_state=True, stream_name="trades of the day", top=top
    ).filter(has_rows)


@outlet(topics=MARKET, group="bars")
def bars(source: Stream, code: str = "600000", candles: int = 20) -> Stream:
    """Push the bars of each minute of all codes to the topic `bars`, and show the candles of one code.

    A bar has the opening, highest, lowest and closing price and the shares traded. It is pushed when its minute has passed, and a
    replay pushes the same bars.

    Args:
        code: Code whose candles are shown.
        candles: Number of candles shown.
    """
    snapshots = source.filter(has("quotes")).pluck("quotes")
    trades = snapshots.accumulate(
        with_shares, start=None, returns_state=True, stream_name="shares since the last snapshot"
    )
    minutes = trades.time_window("1min", key="code", late="drop", stream_name="minutes").agg(
        open=("now", "first"), high=("now", "max"), low=("now", "min"), close=("now", "last"), volume=("shares", "sum")
    )
    minutes.to_redis("bars", keep=BARS_KEEP, compression="zstd")
    of_code = minutes.map(with_code, code).filter(has_rows)
    return of_code.accumulate(
        last_candles, start=None, returns_state=True, stream_name=f"candles of {code}", number=candles
    )


@outlet(topics=MARKET, group="archive")
def archive(
    source: Stream,
    folder: str | None = None,
    file_entries: int = 500,
    file_seconds: float = 60.0,
) -> None:
    """Write every entry into Parquet files by topic, kind and day.

    Args:
        folder: Folder of the dataset. If empty, archive/ in the state folder, .sluice/.
        file_entries: Number of entries after which files are written.
        file_seconds: Most seconds from the first of these entries until files are written.
    """
    source.to_parquet(folder or state_dir() / "archive", max_entries=file_entries, max_seconds=file_seconds)


def add_trades(day: pd.DataFrame | None, quotes: pd.DataFrame, *, top: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Add the trades since the last snapshot to the sums of the day, and return both: all sums, and the `top` codes.

    The shares traded between two snapshots count at the later price. A code whose shares became fewer has begun a new day.

    day       the sums so far by code: counted and known shares, yuan; None at the beginning
    returns   the sums; and by code: name, vwap, now, shares, yuan and a bar, whose length shows yuan
    """
    known = quotes["turnover"].astype("float64")
    if day is None:
        day = pd.DataFrame({"shares": 0.0, "yuan": 0.0, "known": known})
    day = day.reindex(day.index.union(known.index))
    known = known.reindex(day.index).fillna(day["known"])
    before = day["known"].fillna(known)
    is_new = known < before
    traded = known.where(is_new, known - before)
    price = quotes["now"].astype("float64").reindex(day.index).fillna(0.0)
    sums = day[["shares", "yuan"]].fillna(0.0).mask(is_new, 0.0)
    day = pd.DataFrame({"shares": sums["shares"] + traded, "yuan": sums["yuan"] + traded * price, "known": known})
    most = day.loc[day["shares"] > 0].nlargest(top, "yuan")
    largest_yuan = max(1.0, most["yuan"].max()) if len(most) else 1.0
    shown = pd.DataFrame(
        {
            "name": quotes["name"].reindex(most.index),
            "vwap": most["yuan"] / most["shares"],
            "now": quotes["now"].reindex(most.index),
            "shares": most["shares"],
            "yuan": most["yuan"],
            "bar": [_BLOCK * max(1, round(_BAR * yuan / largest_yuan)) for yuan in most["yuan"]],
        }
    )
    return day, shown


def with_shares(known: pd.Series | None, quotes: pd.DataFrame) -> tuple[pd.Series, pd.DataFrame]:
    """Add `shares`, those traded since the last snapshot, to the prices of the codes that have one.

    known     the shares of the day so far by code, as of the last snapshot of each; None at the beginning
    returns   the same with this snapshot; and by code: now, shares
    """
    day: Any = quotes["turnover"].astype("float64").rename_axis("code")
    before = day if known is None else known.reindex(day.index).fillna(day)
    shares = (day - before).where(day >= before, day)  # fewer than before: a new day
    prices = pd.DataFrame({"now": quotes["now"].astype("float64").rename_axis("code"), "shares": shares})
    all_known = day if known is None else day.combine_first(known)
    return all_known, prices.loc[prices["now"] > 0]


def with_code(minute: pd.DataFrame, code: str) -> pd.DataFrame:
    """Keep the bar of one code."""
    return minute.loc[minute.index == code]


def last_candles(known: pd.DataFrame | None, minute: pd.DataFrame, *, number: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Add a bar to those of a code, and return the last ones twice: as they are, and the newest first with their candles.

    A candle is a line from the lowest to the highest price with a body from the opening to the closing one, full if it rises.
    """
    rows = minute if known is None else pd.concat([known, minute])
    rows = rows.tail(number)
    lowest, highest = rows["low"].to_numpy().min(), rows["high"].to_numpy().max()
    scale = (_CANDLE - 1) / (highest - lowest) if highest > lowest else 0.0
    at = ((rows[["low", "open", "close", "high"]] - lowest) * scale).round().astype("int64")
    drawn = [_candle(*row) for row in at.itertuples(index=False)]
    return rows, rows.assign(candle=drawn).iloc[::-1]


def _candle(low: int, opening: int, closing: int, high: int) -> str:
    bottom, top = sorted((opening, closing))
    body = _BLOCK if closing >= opening else _FALLING
    return "\N{NO-BREAK SPACE}" * low + _WICK * (bottom - low) + body * (top - bottom + 1) + _WICK * (high - top)


def has_rows(frame: pd.DataFrame) -> bool:
    """Return whether a frame has any rows: the first snapshot shows no trades yet."""
    return len(frame) > 0


def clean(quotes: pd.DataFrame) -> pd.DataFrame:
    """Drop rows without a price or a bid, and rows with 100 or fewer shares asked."""
    has_prices = (quotes[["now", "buy", "bid1"]] > 0).all(axis="columns")
    return quotes.loc[has_prices & (quotes["ask1_volume"] > _THIN)]


def with_changes(quotes: pd.DataFrame) -> pd.DataFrame:
    """Add `p_change`, the bid's relative distance from the price, and `change`, the price's difference from the previous row."""
    return quotes.assign(
        p_change=(quotes["buy"] - quotes["now"]) / quotes["now"],
        change=quotes["now"].diff(),
    )


def with_prefix(quotes: pd.DataFrame, prefix: str) -> pd.DataFrame:
    """Keep the rows whose code begins with `prefix`."""
    return quotes.loc[quotes.index.astype("str").str.startswith(prefix)]


def sample(quotes: pd.DataFrame, size: int, seed: int | None) -> pd.DataFrame:
    """Draw `size` rows, or all if there are fewer; with a seed, the same quotes give the same rows."""
    return quotes.sample(min(size, len(quotes)), random_state=seed)


def largest(quotes: pd.DataFrame, top: int) -> pd.DataFrame:
    """Keep the `top` rows with the largest `p_change`, the largest first."""
    return quotes.nlargest(top, "p_change")
