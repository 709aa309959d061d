"""The stock market: all quotes every five seconds, the widest movers, and an archive."""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

import pandas as pd
from streamz import Stream

from flows import inlet, outlet
from flows.topics import MARKET, MARKET_KEEP
from tasks.base.state_folder import state_dir
from tasks.feeds.exchange import Exchange
from tasks.nodes import to_parquet as parquet  # noqa: F401 - registers Stream.to_parquet
from tasks.reservoir.entry import has

__all__ = ["archive", "movers", "quotes", "turnover"]

_THIN = 100
_BLOCK, _BAR = "\N{FULL BLOCK}", 20  # the longest bar of a table

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
