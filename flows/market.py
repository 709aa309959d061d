"""The stock market: all its quotes every five seconds, what moves in it, and an archive of it all."""

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

__all__ = ["archive", "movers", "quotes"]

_THIN = 100

_exchange = lru_cache(maxsize=8)(Exchange)


# zstd makes 455 KB of a snapshot's 1.5 MB in 4.5 ms, lz4 704 KB in 2.7 ms.
@inlet(topic=MARKET, every="5s", threads=4, keep=MARKET_KEEP, compression="zstd")
def quotes(
    board: Literal["all", "sh", "sz", "bj"] = "all",
    feed: Literal["simulated", "sina"] = "simulated",
    seed: int = 0,
) -> pd.DataFrame:
    """Every A-share's quote, one row per code.

    Args:
        board: Which exchange's codes - all, or those of Shanghai (sh), Shenzhen (sz) or Beijing (bj).
        feed: Where quotes come from - a simulated exchange that never closes, or Sina's live ones.
        seed: The simulated exchange's. Each seed is another market.
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
    """Of a sample of codes, those whose bid is highest against the price; the last three snapshots together.

    Args:
        prefix: Which codes - those that begin so, 150 or 60 or 300. Sina lists none with 150 any more.
        sample_size: How many codes are sampled from each snapshot.
        top: How many of the sample are kept.
        seed: Draws the same sample of the same quotes every time. Empty - another one each time.
    """
    snapshots = source.filter(has("quotes")).pluck("quotes")
    changes = snapshots.map(clean).map(with_changes).map(with_prefix, prefix)
    largest_changes = changes.map(sample, sample_size, seed).map(largest, top)
    return largest_changes.sliding_window(3).map(pd.concat)


@outlet(topics=MARKET, group="archive")
def archive(
    source: Stream,
    folder: str | None = None,
    file_entries: int = 500,
    file_seconds: float = 60.0,
) -> None:
    """Every entry, into Parquet files by topic, kind and day.

    Args:
        folder: Where the dataset is. Empty - archive/ in the state folder, .sluice/.
        file_entries: Files are written when so many entries have come.
        file_seconds: And at the latest so many seconds after the first.
    """
    source.to_parquet(folder or state_dir() / "archive", max_entries=file_entries, max_seconds=file_seconds)


def clean(quotes: pd.DataFrame) -> pd.DataFrame:
    """Drop the rows without a price, without a bid, or with 100 shares or fewer asked."""
    has_prices = (quotes[["now", "buy", "bid1"]] > 0).all(axis="columns")
    return quotes.loc[has_prices & (quotes["ask1_volume"] > _THIN)]


def with_changes(quotes: pd.DataFrame) -> pd.DataFrame:
    """Add `p_change`, how far the bid is off the price, and `change`, that of the price to the row before."""
    return quotes.assign(
        p_change=(quotes["buy"] - quotes["now"]) / quotes["now"],
        change=quotes["now"].diff(),
    )


def with_prefix(quotes: pd.DataFrame, prefix: str) -> pd.DataFrame:
    """Keep the codes that begin with `prefix`."""
    return quotes.loc[quotes.index.astype("str").str.startswith(prefix)]


def sample(quotes: pd.DataFrame, size: int, seed: int | None) -> pd.DataFrame:
    """Draw `size` rows, all if there are fewer; the same ones for the same quotes if there is a seed."""
    return quotes.sample(min(size, len(quotes)), random_state=seed)


def largest(quotes: pd.DataFrame, top: int) -> pd.DataFrame:
    """Keep the `top` rows with the largest `p_change`, the largest first."""
    return quotes.nlargest(top, "p_change")
