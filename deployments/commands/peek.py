"""`sluice peek` prints entries without a group: it acknowledges nothing, and no reader notices."""

import time

import redis
from rich.console import Console

from deployments.show.as_json import entry_object, line
from deployments.show.tables import entry_table
from deployments.show.terminal import print_aside
from tasks.codec.decoding import Decoding
from tasks.errors import PoisonEntryError, SettingsError
from tasks.reservoir import Reservoir
from tasks.reservoir.connection import connect, is_outage
from tasks.reservoir.entry import Entry
from tasks.reservoir.folding import streams_of
from tasks.reservoir.topic_names import check_topic
from tasks.settings import redis_url

__all__ = ["peek"]

_AT_ONCE = 16  # entries per read; one can have some megabytes
_BLOCK_MS = 1_000


def peek(
    console: Console, topic: str, n: int, *, follow: bool = False, as_json: bool = False, decode: str = "auto"
) -> None:
    """Print the newest `n` entries of a topic, oldest first, decoded; with `follow`, also later ones until Ctrl-C.

    decode    how fields become values; the values of a repeated field are a list
    raises    SettingsError: no such topic, unless it is followed: it may be created later
    """
    reservoir = Reservoir(connect(redis_url(), retries=0))
    there = _is_there(reservoir, check_topic(topic, derived=True))
    others = "" if there else f"there are: {', '.join(reservoir.topics()) or 'none yet'}"
    if not there and not follow:
        msg = f"expected a topic, got {topic!r}; {others}"
        raise SettingsError(msg)
    decoding = Decoding(decode=decode, lists_repeated=True)  # type: ignore[arg-type] # checked there
    last = reservoir.last_ids(topic) if follow else {}  # before the entries are read, so that none is missed
    entries = reservoir.peek(topic, n, decoding=decoding)
    for entry in entries:
        _print(console, _stream(entry, topic), entry, as_json=as_json)
    if entries and not as_json:
        held = sum(reservoir.client.xlen(stream) for stream in streams_of(reservoir.client, topic))
        print_aside(
            f"{len(entries):,} of {max(held, len(entries)):,} entries of {topic}{', and what follows' if follow else ''}"
        )
    if follow:
        if not entries:
            print_aside(
                f"{topic} holds no entries; waiting for one"
                if there
                else f"there is no topic {topic!r} yet ({others}); waiting for it"
            )
        last |= {_stream(entry, topic): entry.id for entry in entries}
        _follow(console, reservoir, topic, last, decoding, as_json=as_json)
    elif not entries and not as_json:
        console.print(f"{topic} holds no entries", highlight=False)


def _follow(
    console: Console, reservoir: Reservoir, topic: str, last: dict[str, str], decoding: Decoding, *, as_json: bool
) -> None:
    """Print what follows; `last` holds the id after which to read each partition."""
    is_away = False
    while True:
        try:
            found = reservoir.follow(topic, last, n=_AT_ONCE, block_ms=_BLOCK_MS, decoding=decoding)
        except redis.RedisError as error:
            if not is_outage(error):
                raise
            if not is_away:
                print_aside("Redis does not answer; trying again until it does")
            is_away = True
            time.sleep(1)
            continue
        if is_away:
            print_aside("Redis answers again")
        is_away = False
        for entry in found:
            _print(console, _stream(entry, topic), entry, as_json=as_json)
            last[_stream(entry, topic)] = entry.id


def _stream(entry: Entry | PoisonEntryError, topic: str) -> str:
    """Return the stream that holds an entry: a partition of its topic, or the topic."""
    return entry.topic or topic


def _is_there(reservoir: Reservoir, topic: str) -> bool:
    if any(reservoir.client.exists(stream) for stream in streams_of(reservoir.client, topic) if stream != topic):
        return True
    kind = reservoir.client.type(topic).decode()
    if kind not in ("stream", "none"):
        msg = f"expected a topic, got {topic!r}, which is a {kind} of another program's; choose another name"
        raise SettingsError(msg)
    return kind == "stream"


def _print(console: Console, topic: str, entry: Entry | PoisonEntryError, *, as_json: bool) -> None:
    if as_json:
        print(line(entry_object(entry, topic)), flush=True)  # noqa: T201 - rich would wrap it
    else:
        console.print(entry_table(topic, entry, width=console.width))
