"""Event time of entries: written by inlets, inherited by results, and untouched by decoding, dead letters and replays."""

import asyncio
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from tasks import Entry, Reservoir
from tasks.codec.decoding import Decoding
from tasks.group.dead_letters import DeadLetters
from tasks.pump.ticks import Beat
from tasks.reservoir.entry import TIME_FIELD, take_out_time, with_time
from tasks.testing import Bench
from tests.support.streams import drain, here

TICK = 1_700_000_000


def tick(client: redis.Redis, n: int, *fields: dict[str, Any]) -> None:
    """Push the entries of the tick n seconds after TICK, as an inlet's run does."""
    reservoir = Reservoir(client)
    beat = Beat(reservoir, "topic", "inlet", every=1.0)
    beat.start(TICK + n)
    assert beat.claim(TICK + n) == "claimed"
    beat.push(TICK + n, reservoir.encode(fields))


def times(client: redis.Redis, topic: str = "topic") -> list[int]:
    return [entry.time_ms for entry in Reservoir(client).peek(topic, 99) if isinstance(entry, Entry)]


def by_hand(pairs: list[tuple[bytes, bytes]]) -> dict[str, bytes]:
    return {name.decode(): data for name, data in pairs}


@pytest.mark.parametrize("decode", ["auto", "text", "bytes", "json", by_hand])
def test_entry_of_an_inlet_has_the_time_of_its_tick_and_no_other_field(client: redis.Redis, decode: Any) -> None:
    tick(client, 0, {"n": 1}, {"n": 2, "m": "x" * 20_000})
    decoding = Decoding(decode=decode)
    peeked = Reservoir(client).peek("topic", 2, decoding=decoding)
    seen: list[Entry] = []

    async def main() -> None:
        source = here(client, decode=decoding.decode)
        source.sink(seen.append)
        source.open()
        await drain(source)
        source.close()

    asyncio.run(main())
    for entries in ([one for one in peeked if isinstance(one, Entry)], seen):
        assert [entry.time_ms for entry in entries] == [TICK * 1000] * 2
        assert [set(entry) for entry in entries] == [{"n"}, {"n", "m"}]


def test_entry_without_an_event_time_has_that_of_its_id(client: redis.Redis) -> None:
    client.xadd("topic", {"n": 1}, id="1700000000123-4")
    client.xadd("topic", {"n": 1, TIME_FIELD: "soon"}, id="1700000000124-0")
    client.xadd("topic", {TIME_FIELD: "5", "n": 1}, id="1700000000125-0")
    foreign = Reservoir(client).peek("topic", 3)[1]
    assert times(client) == [1_700_000_000_123, 1_700_000_000_124, 5]
    assert isinstance(foreign, Entry)
    assert TIME_FIELD.decode() in foreign


@pytest.mark.parametrize("keeps_state", [False, True])
def test_result_inherits_the_newest_event_time_of_its_entries(client: redis.Redis, keeps_state: bool) -> None:
    def pairs(source: Any) -> Any:
        stream = source.pluck("n")
        if keeps_state:
            stream = stream.accumulate(lambda _, n: n, start=0)
        return stream.sliding_window(2, return_partial=False).map(sum)

    with Bench(pairs, client=client, into="sums") as bench:
        bench.push(
            *(Entry({"n": n}, topic="topic", id=f"{n + 1}-0", time_ms=time) for n, time in enumerate([50, 90, 70, 10]))
        )
        bench.crash(after=2)
        bench.drain()
        bench.stop()
    assert times(client, "sums") == [90, 90, 70]


def test_event_time_outlives_a_dead_letter_and_its_replay(client: redis.Redis) -> None:
    seen: list[Entry] = []

    def refusing(source: Any) -> None:
        source.map(refused).sink(seen.append)

    def refused(entry: Entry) -> Entry:
        if not is_repaired:
            raise ValueError
        return entry

    is_repaired = False
    with Bench(refusing, client=client) as bench:
        bench.push(Entry({"n": 1}, topic="topic", id="100-0", time_ms=50))
        bench.drain()
        letters = DeadLetters(client, "topic", "group")
        assert times(client, "topic:dead:group") == [50]
        is_repaired = True
        assert [outcome for _, outcome in letters.replay(letters.choose())] == ["replayed"]
        bench.stop()
        bench.drain()
    assert [(entry.time_ms, dict(entry)) for entry in seen] == [(50, {"n": 1})]


@given(fields=st.dictionaries(st.binary(), st.binary(), max_size=4), time=st.none() | st.integers(0, 10**14))
def test_time_that_is_added_to_fields_is_taken_out_again(fields: dict[bytes, bytes], time: int | None) -> None:
    fields.pop(TIME_FIELD, None)
    flat = [part for pair in with_time(fields, time).items() for part in pair]
    assert (take_out_time(flat), dict(zip(flat[::2], flat[1::2], strict=True))) == (time, fields)
