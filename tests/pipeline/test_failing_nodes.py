"""Failing nodes: only the entry whose call raised becomes a dead letter, and the pipeline goes on."""

import asyncio
import contextlib
from typing import Any

import pytest
import redis

from tasks.base import fatal as stops
from tasks.nodes.source_run import SourceRun
from tests.support.nodes import PUSHED, Build, feed, members
from tests.support.streams import consumer, dead, drain, here, lossy, pending, push_all


def bad(n: Any, *_: Any) -> Any:
    """Raise on an element that contains a 3."""
    if 3 in list(members(n)):
        msg = "three"
        raise ValueError(msg)
    return n


async def cancelled(n: Any) -> None:
    """End like a call that other code cancelled."""
    if n == 3:
        raise asyncio.CancelledError


def cancelled_at_once(n: Any) -> Any:
    if n == 3:
        raise asyncio.CancelledError
    return n


class PanicError(BaseException):
    """A BaseException that is no Exception, such as a Rust extension raises."""


def ending(how: type[BaseException]) -> Any:
    """Return a function that raises `how` on 3, and an async one that does the same."""

    def at_once(n: Any, *_: Any) -> Any:
        if n == 3:
            raise how
        return n

    async def later(n: Any) -> Any:
        await asyncio.sleep(0)
        return at_once(n)

    return at_once, later


ENDS: list[type[BaseException]] = [PanicError, SystemExit, asyncio.CancelledError]


async def bad_later(n: Any) -> Any:
    await asyncio.sleep(0)
    return bad(n)


def bad_at_once(n: Any) -> Any:
    bad(n)
    return bad_later(n)


FAILING: dict[str, Build] = {
    "map": lambda s: s.map(bad),
    "starmap": lambda s: s.map(lambda n: (n,)).starmap(bad),
    "filter": lambda s: s.filter(lambda n: bad(n) is n),
    "pluck": lambda s: s.map(lambda n: {} if n == 3 else {"n": n}).pluck("n"),
    "accumulate": lambda s: s.accumulate(lambda a, n: bad(n), start=None),
    "unique": lambda s: s.unique(key=bad),
    "partition": lambda s: s.partition(1, key=bad),
    "partition_unique": lambda s: s.partition_unique(1, key=bad),
    "timed_window_unique": lambda s: s.timed_window_unique(0.01, key=bad),
    "flatten": lambda s: s.map(lambda n: (bad(m) for m in [n])).flatten(),
    "map_async": lambda s: s.map_async(bad_later),
    "map_async that raises at once": lambda s: s.map_async(bad_at_once),
    "async map": lambda s: s.map(bad_later),
    "async starmap": lambda s: s.map(lambda n: (n,)).starmap(bad_later),
    "async filter": lambda s: s.filter(bad_later),
    "async remove": lambda s: s.remove(bad_later),
    "async map that raises at once": lambda s: s.map(bad_at_once),
    "cancelled async map": lambda s: s.map(cancelled),
    "flatten of awaitables": lambda s: s.map(lambda n: [bad_later(n)]).flatten(),
    "sink": lambda s: s.sink(bad),
    "cancelled map": lambda s: s.map(cancelled_at_once),
    "cancelled map_async": lambda s: s.map_async(cancelled),
    "cancelled sink": lambda s: s.sink(cancelled),
    "async sink": lambda s: s.sink(bad_later),
    "one of two branches": lambda s: (s.map(lambda n: n).sink(lambda _: None), s.map(bad))[1],
    "buffer": lambda s: s.buffer(2).map(bad),
    "delay": lambda s: s.delay(0.001).map(bad),
    "rate_limit": lambda s: s.rate_limit(0.001).map(bad),
    "latest": lambda s: s.map(bad).latest(),
}


@pytest.mark.parametrize("name", FAILING, ids=lambda name: name.replace(" ", "_"))
def test_function_that_raises_makes_only_its_entry_a_dead_letter(client: redis.Redis, name: str) -> None:
    feed(client, FAILING[name], until=lambda: not pending(client))
    [letter] = dead(client)
    assert letter["n"] == 3
    assert letter["dead:topic"] == "topic"
    assert letter["dead:group"] == "group"
    assert letter["dead:deliveries"] == 1
    assert "Error" in letter["dead:exception"]


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("node", ["map", "filter", "sink", "unique", "map_async", "async map", "async sink", "buffer"])
def test_base_exception_makes_only_its_entry_a_dead_letter(client: redis.Redis, node: str, how: Any) -> None:
    at_once, later = ending(how)
    build: Build = {
        "map": lambda s: s.map(at_once),
        "filter": lambda s: s.filter(at_once).sink(lambda _: None),
        "sink": lambda s: s.map(lambda n: n).sink(at_once),
        "unique": lambda s: s.unique(key=at_once),
        "map_async": lambda s: s.map_async(later),
        "async map": lambda s: s.map(later),
        "async sink": lambda s: s.sink(later),
        "buffer": lambda s: s.buffer(2).map(at_once),
    }[node]
    feed(client, build, until=lambda: not pending(client))
    assert [letter["n"] for letter in dead(client)] == [3]
    assert how.__name__ in dead(client)[0]["dead:exception"]


class StopSignalError(BaseException):
    """An exception that a signal handler raises."""


@pytest.mark.parametrize("how", [KeyboardInterrupt, StopSignalError])
@pytest.mark.parametrize("fuse", [True, False])
def test_stop_signal_passes_the_nodes_and_its_entry_stays_pending(
    fake_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch, how: type[BaseException], fuse: bool
) -> None:
    monkeypatch.setattr(stops, "_ending", stops._ending)
    stops.let_end_run(StopSignalError)
    at_once, _ = ending(how)
    ids = push_all(fake_redis, "topic", PUSHED)

    async def main() -> None:
        source = here(fake_redis, fuse=fuse)
        kept = source.pluck("n").map(at_once)
        source.open()
        with pytest.raises(how):
            await source.step()
        source.close()
        del kept

    asyncio.run(main())
    assert dead(fake_redis) == []
    assert pending(fake_redis)[0] == ids[3]


def test_flattened_item_that_fails_later_fails_its_entry(client: redis.Redis) -> None:
    async def check(item: int) -> None:
        await asyncio.sleep(0.001)
        bad(item)

    build = lambda s: s.map(lambda n: [n, n + 10]).flatten().sink(check)
    feed(client, build, until=lambda: not pending(client))
    assert [letter["n"] for letter in dead(client)] == [3]


@pytest.mark.parametrize("name", ["map", "starmap", "accumulate"])
def test_failing_node_logs_once(client: redis.Redis, caplog: pytest.LogCaptureFixture, name: str) -> None:
    def always(*_: Any) -> None:
        raise ValueError

    build = {
        "map": lambda s: s.map(always),
        "starmap": lambda s: s.map(lambda n: (n,)).starmap(always),
        "accumulate": lambda s: s.accumulate(always, start=0),
    }[name]
    feed(client, build, until=lambda: not pending(client))
    assert len(dead(client)) == len(PUSHED)
    assert len(caplog.records) == 1


def test_entry_whose_work_is_cancelled_with_the_loop_stays_pending(
    fake_redis: redis.Redis,
) -> None:
    ids = push_all(fake_redis, "topic", [1])

    async def main() -> None:
        source = here(fake_redis)
        kept = source.buffer(1).sink(lambda _: asyncio.get_running_loop().create_future())
        source.open()
        await drain(source, until=lambda: source.latest_run.secured.waiting > 0)
        guards = asyncio.all_tasks() - {asyncio.current_task()}
        for guard in guards:
            guard.cancel()
        await asyncio.wait(guards, timeout=1)
        await source.step()
        source.close()
        del kept

    asyncio.run(main())
    assert dead(fake_redis) == []
    assert pending(fake_redis) == ids


@pytest.mark.parametrize("loses_in", range(1, 8))
def test_failed_entry_becomes_one_dead_letter_when_a_reply_is_lost(client: redis.Redis, loses_in: int) -> None:
    push_all(client, "topic", [1, 3, 13, 4])
    through = lossy(client)

    async def main() -> None:
        source = here(client)
        kept = source.pluck("n").map(lambda n: bad(n % 10))
        reading = SourceRun(consumer(through), source, on_error="dead_letter", grace=1.0)
        await reading.emit(reading.consumer.step(0))
        through.loses_in = loses_in
        for _ in range(3):
            with contextlib.suppress(redis.ConnectionError):
                reading.flush()
        through.loses_in = 0
        reading.close()
        del kept

    asyncio.run(main())
    assert [letter["n"] for letter in dead(client)] == [3, 13]
    assert pending(client) == []
