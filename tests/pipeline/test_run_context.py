"""Functions in a pipeline see their run's context variables, and through them Prefect's run."""

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any

import pytest
import redis
from prefect import get_run_logger, runtime, task
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from streamz import Stream

from deployments.servers.redis_server import RedisServer
from flows import outlet
from tests.support.streams import dead, push_all
from tests.support.waiting import wait_until

run = contextvars.ContextVar("run", default="none")


async def later(x: Any) -> Any:
    await asyncio.sleep(0)
    return x


CALLERS: dict[str, Callable[[Stream, Callable[[Any], Any]], Any]] = {
    "a fused run": lambda s, f: s.map(f).sink(f),
    "one node": lambda s, f: s.map(f),
    "a coroutine": lambda s, f: s.map_async(lambda x: later(f(x))).sink(f),
    "an asynchronous sink": lambda s, f: s.sink(lambda x: later(f(x))),
    "buffer": lambda s, f: s.buffer(2).sink(f),
    "delay": lambda s, f: s.delay(0.001).sink(f),
    "rate_limit": lambda s, f: s.rate_limit(0.001).sink(f),
    "latest": lambda s, f: s.latest().sink(f),
    "partition with timeout": lambda s, f: s.partition(9, timeout=0.01).sink(f),
    "timed_window": lambda s, f: s.timed_window(0.01).filter(bool).map_async(later).sink(f),
    "timed_window_unique": lambda s, f: s.timed_window_unique(0.01).filter(bool).sink(f),
}


@pytest.mark.parametrize("caller", CALLERS, ids=lambda name: name.replace(" ", "_"))
def test_every_call_of_a_function_sees_the_context_of_the_latest_start(
    redis_server: RedisServer, real_redis: redis.Redis, caller: str
) -> None:
    """The nodes are created, and their loops started, in another context."""
    seen: list[str] = []

    def look(x: Any) -> Any:
        seen.append(run.get())
        return x

    source = Stream.from_redis("topic", group="lab", url=redis_server.url)
    kept = CALLERS[caller](source.pluck("n"), look)
    for life in ("first", "second"):
        run.set(life)
        seen.clear()
        push_all(real_redis, "topic", [1])
        source.start()
        wait_until(lambda: seen, "a call")
        source.stop()
        source.join(20)
        assert set(seen) == {life}
    assert dead(real_redis, group="lab") == []
    del kept


@pytest.mark.usefixtures("prefect")
def test_pipeline_uses_the_logger_tasks_secrets_and_runtime_of_its_run(
    redis_server: RedisServer, real_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_REDIS_URL", redis_server.url)
    Secret(value="of water").save("seen-in-a-pipeline", overwrite=True)  # type: ignore[arg-type] # pydantic takes a str
    seen: list[Any] = []

    @task
    def double(n: int) -> int:
        return 2 * n

    @task
    async def double_later(n: int) -> int:
        await asyncio.sleep(0)
        return 2 * n

    def secret(n: int) -> int:
        assert Secret.load("seen-in-a-pipeline").get() == "of water"  # type: ignore[union-attr]
        return n

    def note(where: str, n: Any) -> None:
        get_run_logger().info("%s of %s", where, n)
        seen.append((where, n, runtime.flow_run.id))

    @outlet(topics="topic", group="group", lease="2s")
    def sees_its_run(source: Stream) -> None:
        """Record the run in each kind of call."""
        n = source.pluck("n").map(secret)
        n.map(double).sink(lambda n: note("sink", n))
        n.map_async(double_later).sink(lambda n: note("coroutine", n))
        n.timed_window(0.05).filter(bool).sink(lambda n: note("timer", n))

    push_all(real_redis, "topic", [1])
    state = sees_its_run(run_for="4s", return_state=True)
    assert dead(real_redis) == []
    id_ = str(state.state_details.flow_run_id)
    assert sorted(seen, key=str) == [("coroutine", 2, id_), ("sink", 2, id_), ("timer", [1], id_)]
    with get_client(sync_client=True) as client:
        parents = [str(each.flow_run_id) for each in client.read_task_runs() if each.name.startswith("double")]
    assert parents.count(id_) == 2
