"""A cut is stored as a whole or changes nothing, and nothing is acknowledged before it is stored."""

import asyncio
import operator
import zlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from streamz import Stream
from tornado.ioloop import IOLoop

from tasks import LeaseLostError, StateConflictError
from tasks.nodes.emitter import Emitter
from tasks.nodes.from_redis import from_redis
from tasks.nodes.hand_over import HandOver
from tasks.pipeline.graphs import graph
from tasks.pipeline.guard import trust
from tasks.pipeline.receipts import Metadata
from tasks.reservoir.fence import Fence
from tasks.reservoir.keys import cut_guard, dead_topic, state_key
from tasks.state import cutter
from tests.support.streams import crash, dead, drain, here, lossy, open_with, pending, push_all, step

LAST = "18446744073709551615-18446744073709551615"
"""The largest id: no entry can follow."""

GUARD = cut_guard("group").encode()


def sums(source: Stream) -> Stream:
    """Append the sums to 'out'; fail on those that 6 divides."""

    def check(total: int) -> int:
        if total % 6 == 0:
            msg = "bad"
            raise ValueError(msg)
        return total

    numbers = source.pluck("n").accumulate(operator.add, start=0).map(check)
    return numbers.to_redis("out")


def outs(client: Any) -> list[int]:
    return [int(fields[b"out"]) for _, fields in client.xrange("out")]


def run(
    client: redis.Redis,
    life: Callable[[from_redis], Awaitable[None]],
    build: Callable[[Stream], Any] = sums,
    *,
    through: Any = None,
) -> None:
    """Run one life of a pipeline, through another client if one is given; it ends in a crash."""

    async def main() -> None:
        source = here(client)
        kept = build(source)
        if through is None:
            source.open()
        else:
            open_with(source, through)
        await life(source)
        crash(source, client)
        del kept

    asyncio.run(main())


async def go_on(source: from_redis) -> None:
    await step(source, 5)


async def emit(source: from_redis) -> None:
    """Read and emit, without a cut."""
    run = source.latest_run
    await run.emit(run.consumer.step(0))


def everything(client: Any) -> dict[bytes, int]:
    """Return a checksum of each key, except the guard of a cut."""
    return {key: zlib.crc32(client.dump(key)) for key in client.keys("*") if key != GUARD}


def other_owner(client: Any, _: from_redis) -> None:
    client.hset(state_key("group"), "owner", "another consumer")


def other_version(client: Any, _: from_redis) -> None:
    client.hset(state_key("group"), "version", "99")


def lost_lease(client: Any, source: from_redis) -> None:
    client.set(source.latest_run.consumer.membership.fence.lease, "claimed", keepttl=True)


def group_set_back(client: Any, _: from_redis) -> None:
    client.xgroup_setid("topic", "group", "0")


def exhausted_results(client: Any, _: from_redis) -> None:
    client.xadd("out", {"of": "another"}, id=LAST)


@pytest.mark.odd_keys
@pytest.mark.parametrize("refusal", [other_owner, other_version, lost_lease, group_set_back, exhausted_results])
def test_refused_cut_changes_nothing_in_redis(
    client: redis.Redis, refusal: Callable[[redis.Redis, from_redis], None]
) -> None:
    before: dict[bytes, int] = {}

    async def life(source: from_redis) -> None:
        push_all(client, "topic", [1, 2])
        await step(source, 2)
        push_all(client, "topic", [3, 4])  # 3 fails
        await emit(source)
        refusal(client, source)
        before.update(everything(client))
        with suppress(LeaseLostError, StateConflictError, redis.ResponseError):
            source.latest_run.flush()
        assert everything(client) == before

    run(client, life)
    assert before


def test_entries_whose_results_find_no_room_stay_pending_and_count_once(client: redis.Redis) -> None:
    read: list[int] = []

    def build(source: Stream) -> Stream:
        sums_ = source.pluck("n").accumulate(operator.add, start=0)
        # Redis frees memory in blocks, of which large entries have one each.
        return sums_.map(lambda n: {"n": n, "of": b"x" * 5_000}).to_redis("out", keep=1, when_full="wait")

    async def life(source: from_redis) -> None:
        client.xgroup_create("out", "reader", "0", mkstream=True)
        for number in range(1, 9):
            push_all(client, "topic", [number])
            await step(source, 3)
        assert len(pending(client)) > 2
        while pending(client):
            for _, entries in client.xreadgroup("reader", "one", {"out": ">"}, count=1, noack=True):
                read.extend(int(fields[b"n"]) for _, fields in entries)
            await step(source, 2)

    run(client, life, build)
    [[_, entries]] = client.xreadgroup("reader", "one", {"out": ">"}, noack=True)
    assert [*read, *(int(fields[b"n"]) for _, fields in entries)] == [1, 3, 6, 10, 15, 21, 28, 36]


def test_letter_that_is_refused_leaves_one_result_of_each_entry(client: redis.Redis) -> None:
    letters = dead_topic("topic", "group")

    async def life(source: from_redis) -> None:
        client.xadd(letters, {"of": "another"}, id=LAST)
        ids = push_all(client, "topic", [1, 2, 3, 4])  # 3 fails
        for _ in range(3):
            with suppress(redis.ResponseError):
                await source.step()
        assert pending(client)[-2:] == ids[2:]  # on a busy machine, a cut may be due before
        client.delete(letters)
        await go_on(source)

    run(client, life)
    assert outs(client) == [1, 3, 10]
    assert [letter["n"] for letter in dead(client)] == [3]
    assert pending(client) == []


@pytest.mark.parametrize("survives", [False, True], ids=["crash", "go_on"])
@pytest.mark.parametrize("command", range(1, 8))
def test_cut_whose_reply_is_lost_is_stored_once(client: redis.Redis, command: int, survives: bool) -> None:
    through = lossy(client)

    async def life(source: from_redis) -> None:
        push_all(client, "topic", [1, 2])
        await go_on(source)
        push_all(client, "topic", [3, 4])  # 3 fails
        through.loses_in = command
        for _ in range(4):
            with suppress(redis.ConnectionError):
                await source.step()
            if not survives and through.loses_in <= 0:
                return

    run(client, life, through=through)
    push_all(client, "topic", [5])
    run(client, go_on)
    assert outs(client) == [1, 3, 10, 15]
    assert [letter["n"] for letter in dead(client)] == [3]
    assert pending(client) == []


def test_state_has_one_owner_who_alone_reads(client: redis.Redis) -> None:
    async def life(source: from_redis) -> None:
        push_all(client, "topic", [1, 2])
        await go_on(source)
        second = here(client)
        kept = sums(second)
        second.open()
        push_all(client, "topic", [4])
        await go_on(second)
        assert outs(client) == [1, 3]
        await go_on(source)
        assert outs(client) == [1, 3, 7]
        source.close()
        push_all(client, "topic", [8])
        await go_on(second)
        assert outs(client) == [1, 3, 7, 15]
        second.close()
        del kept

    run(client, life)


@pytest.mark.parametrize("command", range(1, 6))
def test_owner_held_up_at_a_command_cannot_count_what_its_successor_counts(client: redis.Redis, command: int) -> None:
    through = lossy(client)

    async def life(source: from_redis) -> None:
        push_all(client, "topic", [1, 2])
        await go_on(source)
        push_all(client, "topic", [4, 8])

        def succeed() -> None:
            crash(source, client)  # its lease expires
            in_a_thread(lambda: run(client, go_on))

        through.halts_in, through.meanwhile = command, succeed
        with suppress(LeaseLostError, StateConflictError):
            await go_on(source)

    run(client, life, through=through)
    run(client, go_on)
    assert outs(client) == [1, 3, 7, 15]
    assert pending(client) == []


def in_a_thread(function: Callable[[], None]) -> None:
    """Call a function that runs a loop of its own."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(function).result()


def test_no_cut_is_taken_while_a_window_of_earlier_entries_is_delayed(client: redis.Redis) -> None:
    found: list[Any] = []

    def build(source: Stream, *, delay: float) -> Stream:
        found.append(source.pluck("n").slice(0).collect())
        return found[-1].delay(delay).accumulate(lambda total, each: total + sum(each), start=0).to_redis("out")

    async def life(source: from_redis) -> None:
        for number in (1, 2):
            push_all(client, "topic", [number])
            await go_on(source)
            assert pending(client) == []  # a cut covers what is collected
            found[-1].flush()
            await asyncio.sleep(0.001)
            source.latest_run.flush()  # the second time, the number is in no node that remembers

    run(client, life, lambda source: build(source, delay=60))
    assert outs(client) == [1]

    async def flush(source: from_redis) -> None:
        await step(source, 1)
        found[-1].flush()
        await drain(source, until=lambda: len(outs(client)) > 1)

    run(client, flush, lambda source: build(source, delay=0.001))
    assert outs(client) == [1, 3]


@trust
class pairs(Stream):  # noqa: N801
    """Emit pairs; the state does not remember the first of one."""

    def __init__(self, upstream: Stream, **kwargs: Any) -> None:
        self._first: tuple[Any, Metadata] | None = None
        super().__init__(upstream, **kwargs)

    def update(self, x: Any, who: Stream | None = None, metadata: Metadata = None) -> list[Any]:
        if self._first is None:
            self._first = x, metadata
            self._retain_refs(metadata)
            return []
        (first, kept), self._first = self._first, None
        try:
            return self._emit((first, x), [*(kept or []), *(metadata or [])])
        finally:
            self._release_refs(kept)


trust(pairs, keeps=True)


def test_no_cut_is_taken_while_a_node_keeps_what_it_does_not_remember(client: redis.Redis) -> None:
    def build(source: Stream) -> Stream:
        return pairs(source.pluck("n").accumulate(operator.add, start=0)).map(list).to_redis("out")

    async def life(source: from_redis) -> None:
        push_all(client, "topic", [1, 2, 4])
        await go_on(source)

    run(client, life, build)
    push_all(client, "topic", [8])
    run(client, go_on, build)
    assert [fields[b"out"] for _, fields in client.xrange("out")] == [b"[1,3]", b"[7,15]"]
    assert pending(client) == []


def test_the_fewer_entries_wait_for_a_cut_the_sooner_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(cutter, "time", SimpleNamespace(monotonic=lambda: now, thread_time=lambda: 0.0))

    async def main() -> None:
        source = Stream(asynchronous=True)
        kept = source.accumulate(operator.add, start=0).sink(lambda _: None)
        hand_over = HandOver(IOLoop.current())
        emitter = Emitter(
            source, hand_over, fence=Fence("group", "lease", "token"), group="group", on_error="stop", max_state=1000
        )
        one = emitter.cutter
        assert one is not None
        one.load({}, graph(source))
        one.report_all_passed([("topic", f"{n}-1") for n in range(1_000)])
        one.cut()
        assert one.wait >= 1.0, "nothing is to be done until the cut is stored, which wakes the thread"
        hand_over.drop_cut()
        hand_over.cut_seconds = 0.05
        one.report_passed(("topic", "2000-1"))
        assert one.wait == pytest.approx(10 * 0.05 * 2 / 1_001)
        one.report_all_passed([("topic", f"{n}-2") for n in range(1_999)])
        assert one.wait == pytest.approx(0.5)
        one.cut()
        hand_over.drop_cut()
        hand_over.cut_seconds = 0.08
        one.report_all_passed([("topic", f"{n}-3") for n in range(2_000)])
        assert one.wait == pytest.approx(0.8)
        hand_over.note_caught_up()
        assert one.wait == pytest.approx(0.5), "no more entries to wait for: only the time of the quickest cut counts"
        hand_over.put([])
        assert one.wait == pytest.approx(0.8)
        del kept

    asyncio.run(main())
