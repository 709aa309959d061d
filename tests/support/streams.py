"""Helpers for tests of streams: feed a topic, step a pipeline on it, and read what remains."""

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
    """Push one entry per value, with the field 'n', and return the entry ids."""
    reservoir = Reservoir(client)
    return [reservoir.push(topic, {"n": value}) for value in values]


def at_work(client: redis.Redis, *groups: str) -> None:
    """Create groups that read the topic from its beginning; create the topic if necessary."""
    for group in groups:
        client.xgroup_create("topic", group, "0", mkstream=True)


def here(client: redis.Redis, topics: str | list[str] = "topic", *, group: str = "group", **options: Any) -> from_redis:
    """Return a source in the running loop, ready to be opened and stepped."""
    return from_redis(topics, group=group, client=client, loop=IOLoop.current(), asynchronous=True, **options)


def open_with(source: from_redis, client: redis.Redis) -> SourceRun:
    """Open a source that uses `client` itself: a copy of a `lossy` client would lose no replies."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tasks.nodes.from_redis.adapted", lambda *_, **__: client)
        return source.open()


def read_ahead(source: from_redis, *, ahead: bool = True) -> None:
    """Let an opened source read ahead in its next steps, as a started one does."""
    consumer = source.latest_run.consumer
    consumer.step = functools.partial(Consumer.step, consumer, ahead=ahead)


async def drain(source: from_redis, *, until: Callable[[], bool] | None = None, deadline: float = 20.0) -> None:
    """Step until a step returns no entry and `until` holds; fail after the deadline."""
    end = asyncio.get_running_loop().time() + deadline
    while await source.step() or not (until is None or until()):
        assert asyncio.get_running_loop().time() < end, "the pipeline did not come to rest"
        await asyncio.sleep(0.001)


def run(
    build: Build, client: redis.Redis, topics: str | list[str] = "topic", *, group: str = "group", **options: Any
) -> None:
    """Run a pipeline on all entries, and stop it properly."""
    with Bench(build, client=client, topics=topics, group=group, options=options) as bench:
        bench.drain()
        bench.stop()


def pending(client: redis.Redis, topic: str = "topic", group: str = "group") -> list[str]:
    """Return the ids of the group's pending entries, in order."""
    return [p["message_id"].decode() for p in client.xpending_range(topic, group, "-", "+", 100_000)]


def lossy(client: redis.Redis) -> Any:
    """Return a client without retries that loses one reply, or is held up before one command.

    It loses the reply of the `loses_in`-th command from now on, and calls `meanwhile` before the `halts_in`-th, as if another
    process worked while this one is suspended. A transaction is one command.
    """
    made: Any = copy.copy(client)
    made.loses_in = made.halts_in = 0
    made.meanwhile = lambda: None
    made.auto_close_connection_pool = False  # the pool belongs to `client`

    def halt() -> None:
        made.halts_in -= 1
        if made.halts_in == 0:
            made.meanwhile()

    def lose() -> None:
        made.loses_in -= 1
        if made.loses_in == 0:
            msg = "the reply was lost"
            raise redis.ConnectionError(msg)

    def execute_command(*args: Any, **kwargs: Any) -> Any:
        halt()
        reply = client.execute_command(*args, **kwargs)
        lose()
        return reply

    def pipeline(**kwargs: Any) -> Any:
        pipe = client.pipeline(**kwargs)
        execute = pipe.execute

        def execute_and_lose(**options: Any) -> Any:
            halt()
            replies = execute(**options)
            lose()
            return replies

        pipe.execute = execute_and_lose
        return pipe

    def parse_response(*args: Any, **kwargs: Any) -> Any:
        reply = client.parse_response(*args, **kwargs)
        lose()
        return reply

    made.get_retry = lambda: Retry(NoBackoff(), 0)  # else a client that loses nothing would replace this one
    made.execute_command, made.pipeline = execute_command, pipeline
    made.parse_response = parse_response  # for commands sent ahead; all others go through `client`
    return made


def dead(client: redis.Redis, topic: str = "topic", group: str = "group") -> list[Mapping[str, Any]]:
    """Return the dead letters of a group, oldest first."""
    return Reservoir(client).peek(f"{topic}:dead:{group}", 100_000)


def crash(source: from_redis, client: redis.Redis) -> None:
    """Leave a source as a killed process does, after the end of its lease."""
    membership = source.latest_run.consumer.membership
    client.delete(f"sluice:lease:{membership.group}:{membership.name}")


lives = st.lists(
    st.tuples(
        st.integers(0, 6),  # entries pushed before it
        st.integers(0, 5),  # steps
        st.integers(1, 4),  # entries per step
        st.booleans(),  # reads ahead
        st.sampled_from(["crash", "stop"]),
    ),
    max_size=8,
)
"""Successive lives of a pipeline."""


class Killed(KeyboardInterrupt):
    """Raised by an entry that kills its consumer's process."""


async def step(source: from_redis, times: int) -> None:
    """Step a source `times` times."""
    for _ in range(times):
        await source.step()


async def expect_bound(
    source: from_redis,
    client: redis.Redis,
    ids: list[str],
    *,
    received: Callable[[], int],
    bound: int,
    let_through: Callable[[], object],
    deadline: float,
) -> None:
    """Expect that no more than `bound` elements enter a node, and that nothing is acknowledged, until calls are let through.

    ids           of the entries
    received      returns how many elements the node has received
    let_through   lets the calls end
    deadline      seconds until the bound is reached
    """
    source.open()
    step = asyncio.ensure_future(source.step())
    async with asyncio.timeout(deadline):
        while received() < bound:  # noqa: ASYNC110 - polled
            await asyncio.sleep(0.001)
    for _ in range(100):
        await asyncio.sleep(0)
    assert received() == bound
    assert pending(client)[:bound] == ids[:bound]
    let_through()
    await step
    while pending(client):
        await source.step()
        await asyncio.sleep(0.001)
    source.close()


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
    """Run a pipeline's lives one after the other, and a last one that reads everything; return all pushed ids."""
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
