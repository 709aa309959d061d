"""The two threads of a source's run: each class works in one of them."""

import asyncio
import functools
import inspect
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from streamz import Stream
from streamz.sinks import Sink
from tornado.ioloop import IOLoop

from deployments.servers.redis_server import RedisServer
from tasks import LeaseLostError
from tasks.group.consumer import Consumer
from tasks.group.held_entries import HeldEntries
from tasks.group.poison_search import PoisonSearch
from tasks.group.recovery import Recovery
from tasks.group.topic_reader import TopicReader
from tasks.nodes.acknowledger import Acknowledger
from tasks.nodes.emitter import Emitter
from tasks.nodes.hand_over import HandOver
from tasks.nodes.in_flight import InFlight
from tasks.nodes.isolation import Isolation
from tasks.nodes.reader import Reader
from tasks.pipeline import trust
from tasks.pipeline.guard import _KEEPING, _SAFE, secure
from tasks.reservoir.entry import Entry
from tasks.reservoir.fence import Fence
from tests.support.streams import consumer, dead, pending, push_all
from tests.support.waiting import wait_until

READERS: list[type] = [Reader, Acknowledger, Isolation, Consumer, HeldEntries, PoisonSearch, Recovery, TopicReader]
MAKING = {"_describe", "describe_dead_letters"}  # called when a run is made, in any thread


class Held(Sink):
    """Keeps elements until a flush, and notes the threads that work in it."""

    def __init__(self, upstream: Stream, **kwargs: Any) -> None:
        self.held: list[Any] = []
        self.threads: dict[str, set[int]] = defaultdict(set)
        self.flushed: list[int] = []
        super().__init__(upstream, **kwargs)

    def update(self, x: Any, who: Any = None, metadata: Any = None) -> list[Any]:
        self.threads["update"].add(threading.get_ident())
        self._retain_refs(metadata)
        self.held.append((x, metadata))
        return []

    def before_stop(self) -> bool:
        self.threads["before_stop"].add(threading.get_ident())
        self.flushed.append(len(self.held))
        while self.held:
            self._release_refs(self.held.pop()[1])
        return True


@pytest.fixture(autouse=True)
def trusted() -> Iterator[None]:
    trust(Held, keeps=True)
    yield
    _SAFE.discard(Held)
    _KEEPING.discard(Held)


@pytest.fixture(autouse=True)
def url(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SLUICE_REDIS_URL", redis_server.url)
    return redis_server.url


def noting(monkeypatch: pytest.MonkeyPatch, *classes: type) -> dict[str, set[int]]:
    """Record the threads that call each method of some classes from now on, except those called by constructors."""
    threads: dict[str, set[int]] = defaultdict(set)

    def noted(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            threads[name].add(threading.get_ident())
            return method(*args, **kwargs)

        return call

    for cls in classes:
        for name, method in vars(cls).items():
            if inspect.isfunction(method) and not name.startswith("__") and name not in MAKING:
                monkeypatch.setattr(cls, name, noted(f"{cls.__name__}.{name}", method))
    return threads


@pytest.mark.parametrize("until", ["now", None])
def test_each_class_of_a_run_works_in_one_thread(
    real_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch, until: str | None
) -> None:
    """With entries that pass, fail, wait in a window, cannot be decoded and are flushed at the end."""
    push_all(real_redis, "topic", range(50))
    real_redis.xadd("topic", {"n": b"\xff\xff\xff\xff no frame"})
    real_redis.xgroup_create("topic", "group", "0")
    real_redis.xreadgroup("group", "dead consumer", {"topic": ">"}, count=5)
    source: Any = Stream.from_redis("topic", group="group", until=until)
    numbers = source.pluck("n")
    kept = [numbers.map(lambda n: 1 / (n - 7)), numbers.sliding_window(3).sink(len), source.buffer(9).sink(len)]
    held = Held(source)
    reading, emitting = noting(monkeypatch, *READERS), noting(monkeypatch, Emitter)
    source.start()
    graph = source.loop.asyncio_loop
    ident = asyncio.run_coroutine_threadsafe(_ident(), graph).result(20)
    thread = source._thread.ident
    if until is None:
        wait_until(lambda: len(held.held) == 50 and dead(real_redis), "all entries to be held or refused")
        source.stop()
    source.join(20)
    assert {name: calls for name, calls in reading.items() if calls != {thread}} == {}
    assert {name: calls for name, calls in emitting.items() if calls != {ident}} == {}
    assert held.threads == {"update": {ident}, "before_stop": {ident}}
    assert {
        "Reader.step",
        "Acknowledger.flush",
        "Isolation.begin",
        "Recovery.step",
        "TopicReader.read",
    } <= reading.keys()
    assert {"Emitter.emit", "Emitter.flush_nodes", "Emitter._on_failure"} <= emitting.keys()
    assert len(dead(real_redis)) == 2, "the entry that failed, and the one that cannot be decoded"
    assert len(pending(real_redis)) == 2, "the last window"
    del kept


async def _ident() -> int:
    return threading.get_ident()


def test_nodes_are_not_flushed_by_a_run_that_lost_its_lease(real_redis: redis.Redis) -> None:
    ids = push_all(real_redis, "topic", range(3))
    source: Any = Stream.from_redis("topic", group="group", lease="300ms")
    held = Held(source)
    source.start()
    wait_until(lambda: len(held.held) == 3, "the entries to be held")
    real_redis.set(source.latest_run.consumer.membership.fence.lease, "claimed", px=60_000)
    with pytest.raises(LeaseLostError):
        source.join(20)
    wait_until(lambda: source.latest_run._hand_over.has_emission_ended, "the end of emission")
    assert held.flushed == []
    assert pending(real_redis) == ids


def test_node_whose_flush_raises_ends_the_run_in_good_order(real_redis: redis.Redis) -> None:
    ids = push_all(real_redis, "topic", range(3))
    source: Any = Stream.from_redis("topic", group="group")
    held = Held(source)

    def refuse() -> bool:
        msg = "the disk is full"
        raise OSError(msg)

    held.before_stop = refuse
    source.start()
    wait_until(lambda: len(held.held) == 3, "the entries to be held")
    source.stop()
    with pytest.raises(OSError, match="the disk is full"):
        source.join(20)
    waiting = real_redis.xpending_range("topic", "group", "-", "+", 10)
    assert [(p["message_id"].decode(), p["consumer"]) for p in waiting] == [(id_, b"handed-back") for id_ in ids]


def test_reader_and_emitter_can_be_stepped_in_one_thread(client: redis.Redis) -> None:
    ids = push_all(client, "topic", range(20))
    seen: list[str] = []

    async def main() -> None:
        source: Any = Stream.from_redis("topic", group="group", client=client, loop=IOLoop.current(), asynchronous=True)
        kept = source.map(lambda entry: entry.id).sink(seen.append)
        one = consumer(client, max_entries=4)
        hand_over = HandOver(source.loop)
        emitter = Emitter(source, hand_over, fence=one.membership.fence, group="group", on_error="stop")
        acknowledger = Acknowledger(one, hand_over, on_error="stop")
        isolation = Isolation(one, emitter.in_flight)
        reader = Reader(one, hand_over, emitter.in_flight, acknowledger, isolation, grace=1.0)
        steps = 0
        while len(seen) < len(ids):
            reader.step()
            assert hand_over.backlog == 1
            assert len(seen) == min(4 * steps, len(ids)), "one step emits one batch"
            await emitter.step()
            steps += 1
        assert pending(client), "not acknowledged before the reader's next step"
        reader.settle()
        assert pending(client) == []
        reader.close()
        del kept

    asyncio.run(main())
    assert seen == ids


def test_entries_being_emitted_are_in_flight_until_they_are_reported() -> None:
    """Both without a receipt, and with one that was made because a node holds the entry."""
    source = Stream()
    kept = source.sink(lambda _: None)
    reports: list[Any] = []
    in_flight = InFlight(
        secure(source), Fence("group", "lease", "token"), finished=reports.append, failed=reports.append
    )
    in_flight.emitting.entries = (Entry({}, topic="topic", id="1-0"),)
    assert (len(in_flight), in_flight.is_busy, in_flight.receipts) == (1, True, frozenset())
    in_flight.emitting.metadata()
    assert len(in_flight) == 1
    [receipt] = in_flight.emitting.made
    in_flight.emitting.entries, in_flight.emitting.made = (), []
    receipt.retain()
    receipt.kept += 1
    receipt.release()
    assert (len(in_flight), in_flight.is_busy, in_flight.at_rest) == (1, False, {("topic", "1-0")})
    receipt.kept -= 1
    receipt.release()
    assert (len(in_flight), reports) == (0, [receipt])
    del kept
