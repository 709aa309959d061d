"""What the tests of streams share: feed a topic, run a pipeline on it step by step, look at what is left."""

import asyncio
import copy
import functools
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

import pytest
import redis
from hypothesis import strategies as st
from redis.backoff import NoBackoff
from redis.retry import Retry
from streamz import Stream
from tornado.ioloop import IOLoop

from tasks import Reservoir
from tasks.group.consumer import Consumer
from tasks.nodes.from_redis import from_redis
from tasks.nodes.source_run import SourceRun
from tasks.testing import Bench

Build = Callable[[Stream], Any]


def push_all(client: redis.Redis, topic: str, values: Iterable[Any]) -> list[str]:
    """Push a value an entry, as the field 'n', and return the entry ids."""
    reservoir = Reservoir(client)
    return [reservoir.push(topic, {"n": value}) for value in values]


def at_work(client: redis.Redis, *groups: str) -> None:
    """Have groups that read a topic from its beginning, which need not be there yet."""
    for group in groups:
        client.xgroup_create("topic", group, "0", mkstream=True)


def here(client: redis.Redis, topics: str | list[str] = "topic", *, group: str = "group", **options: Any) -> from_redis:
    """Return a source in the running loop, opened and ready to be stepped."""
    return from_redis(topics, group=group, client=client, loop=IOLoop.current(), asynchronous=True, **options)


def open_with(source: from_redis, client: redis.Redis) -> SourceRun:
    """Open a source that reads through this very client: of a `lossy` one, a copy would lose no replies."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tasks.nodes.from_redis.adapted", lambda *_, **__: client)
        return source.open()


def read_ahead(source: from_redis, *, ahead: bool = True) -> None:
    """Have a source that is opened, and stepped from now on, read ahead as one that is started does."""
    consumer = source.latest_run.consumer
    consumer.step = functools.partial(Consumer.step, consumer, ahead=ahead)


async def drain(source: from_redis, *, until: Callable[[], bool] | None = None, deadline: float = 20.0) -> None:
    """Step until a step brings nothing and `until` holds; fail after the deadline."""
    end = asyncio.get_running_loop().time() + deadline
    while await source.step() or not (until is None or until()):
        assert asyncio.get_running_loop().time() < end, "the pipeline did not come to rest"
        await asyncio.sleep(0.001)


def run(
    build: Build, client: redis.Redis, topics: str | list[str] = "topic", *, group: str = "group", **options: Any
) -> None:
    """Run a pipeline on all there is, and leave the group in good order."""
    with Bench(build, client=client, topics=topics, group=group, options=options) as bench:
        bench.drain()
        bench.stop()


def pending(client: redis.Redis, topic: str = "topic", group: str = "group") -> list[str]:
    """Return the ids that are delivered to the group and not acknowledged, in order."""
    return [p["message_id"].decode() for p in client.xpending_range(topic, group, "-", "+", 100_000)]


def lossy(client: redis.Redis) -> Any:
    """Return a client of the same server, repeating nothing, that loses the reply of command number `loses_in` from now on, once."""
    made: Any = copy.copy(client)
    made.loses_in = 0
    made.auto_close_connection_pool = False  # which at its end would hang up on `client`, too

    def lose() -> None:
        made.loses_in -= 1
        if made.loses_in == 0:
            msg = "the reply was lost"
            raise redis.ConnectionError(msg)

    def execute_command(*args: Any, **kwargs: Any) -> Any:
        reply = client.execute_command(*args, **kwargs)
        lose()
        return reply

    def pipeline(**kwargs: Any) -> Any:
        pipe = client.pipeline(**kwargs)
        execute = pipe.execute

        def execute_and_lose(**options: Any) -> Any:
            replies = execute(**options)
            lose()
            return replies

        pipe.execute = execute_and_lose
        return pipe

    def parse_response(*args: Any, **kwargs: Any) -> Any:
        reply = client.parse_response(*args, **kwargs)
        lose()
        return reply

    made.get_retry = lambda: Retry(NoBackoff(), 0)  # or it would be replaced by one that loses nothing
    made.execute_command, made.pipeline = execute_command, pipeline
    made.parse_response = parse_response  # of what was sent ahead: all else goes through `client`
    return made


def dead(client: redis.Redis, topic: str = "topic", group: str = "group") -> list[Mapping[str, Any]]:
    """Return the dead letters of a group, oldest first."""
    return Reservoir(client).peek(f"{topic}:dead:{group}", 100_000)


def crash(source: from_redis, client: redis.Redis) -> None:
    """Leave a source as a killed process would, its lease run out."""
    membership = source.latest_run.consumer.membership
    client.delete(f"sluice:lease:{membership.group}:{membership.name}")


lives = st.lists(
    st.tuples(
        st.integers(0, 6),  # how many entries are pushed meanwhile
        st.integers(0, 5),  # how many steps it lives
        st.integers(1, 4),  # how many entries it reads in a step
        st.booleans(),  # whether it reads ahead
        st.sampled_from(["crash", "stop"]),
    ),
    max_size=8,
)
"""Lives of a pipeline, one after the other."""


class Killed(KeyboardInterrupt):
    """Raised by an entry that kills its consumer's process."""


async def step(source: from_redis, times: int) -> None:
    """Step a source so many times."""
    for _ in range(times):
        await source.step()


async def survives(source: from_redis, client: redis.Redis, work: Coroutine[Any, Any, None]) -> bool:
    """Open a source and return whether `work` ends; if an entry kills the process, leave the source as a crash does."""
    source.open()
    try:
        await work
    except Killed:
        crash(source, client)
        return False
    source.close()
    return True


async def one_life(
    source: from_redis,
    client: redis.Redis,
    *,
    steps: int,
    ahead: bool,
    end: str,
    before_a_crash: Callable[[from_redis], None] = lambda _: None,
) -> None:
    """Open a source, step it, and end it by a stop or a crash."""
    source.open()
    read_ahead(source, ahead=ahead)
    await step(source, steps)
    if end == "stop":
        source.close()
    else:
        before_a_crash(source)
        crash(source, client)


def live_through(
    lives: Any,
    client: redis.Redis,
    build: Callable[[Stream], Any],
    *,
    before_a_crash: Callable[[from_redis], None] = lambda _: None,
) -> list[str]:
    """Run one life of a pipeline after the other, the last one to its end; return the ids that were pushed."""
    pushed: list[str] = []

    async def live(pushes: int, steps: int, max_entries: int, ahead: bool, end: str) -> None:
        pushed.extend(push_all(client, "topic", range(pushes)))
        source = here(client, max_entries=max_entries)
        kept = build(source)
        await one_life(source, client, steps=steps, ahead=ahead, end=end, before_a_crash=before_a_crash)
        del kept

    for life in [*lives, (0, 200, 10, False, "stop")]:
        asyncio.run(live(*life))
    return pushed


def consumer(client: redis.Redis, **options: Any) -> Consumer:
    return Consumer(client, "topic", "group", **options)


def read_all(one: Consumer) -> list[Any]:
    return [entry for _ in range(20) for entry in one.step(0)]
