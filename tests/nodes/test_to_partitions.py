"""Results into a partitioned topic: in the partition of their key, in order, and once in spite of kills and lost replies."""

import asyncio
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from streamz import Stream

from tasks import Reservoir, SettingsError
from tasks.reservoir.partitions import Partitioning, declare, declared, partition_for, partition_topic
from tasks.testing import Bench
from tests.support.streams import drain, here, lossy, open_with, push_all, run

Fresh = Callable[[], redis.Redis]

P = 3


def held(client: redis.Redis, topic: str = "sums") -> list[list[Any]]:
    """Return the field 'n' of all results, by partition."""
    return [
        [entry["n"] for entry in Reservoir(client).peek(partition_topic(topic, n), 1_000) if isinstance(entry, dict)]
        for n in range(P)
    ]


def expected(numbers: list[int]) -> list[list[int]]:
    return [[n for n in numbers if partition_for(n % 5, P) == at] for at in range(P)]


def as_result(n: int) -> dict[str, int]:
    return {"code": n % 5, "n": n}


@pytest.mark.parametrize("keep_state", [True, False])
def test_results_are_in_the_partition_of_their_key_in_order(client: redis.Redis, *, keep_state: bool) -> None:
    push_all(client, "topic", range(20))
    run(
        lambda source: source.pluck("n").map(as_result).to_redis("sums", partitions=P, key="code"),
        client,
        keep_state=keep_state,
    )
    assert held(client) == expected(list(range(20)))
    assert declared(client, "sums") == Partitioning(P, "code")
    assert not client.exists("sums")


@given(steps=st.lists(st.sampled_from(["push", "step", "crash", "stop"]), max_size=14), keep_state=st.booleans())
def test_results_come_once_to_their_partition_in_spite_of_kills(
    fresh_client: Fresh, steps: list[str], *, keep_state: bool
) -> None:
    client = fresh_client()

    def build(source: Stream) -> None:
        source.pluck("n").map(as_result).to_redis("sums", partitions=P, key="code")

    pushed = 0
    with Bench(build, client=client, options={"keep_state": keep_state}) as bench:
        for step in steps:
            match step:
                case "push":
                    bench.push({"n": pushed})
                    pushed += 1
                case "step":
                    bench.step()
                case "crash":
                    bench.crash(after=1)
                case _:
                    bench.stop()
        bench.drain()
        bench.stop()
    assert held(client) == expected(list(range(pushed)))


@given(loses_in=st.integers(1, 12))
def test_lost_reply_neither_doubles_nor_loses_parts_of_a_result(fresh_client: Fresh, loses_in: int) -> None:
    client = fresh_client()
    push_all(client, "topic", range(4))
    losing = lossy(client)

    def as_frame(n: int) -> dict[str, Any]:
        return {"rows": pd.DataFrame({"code": range(5), "n": n})}

    async def main() -> None:
        source = here(losing, keep_state=False)
        source.pluck("n").map(as_frame).to_redis("sums", partitions=P, key="code", client=losing)
        open_with(source, losing)
        losing.loses_in = loses_in
        for _ in range(50):
            try:
                await drain(source)
            except redis.ConnectionError:
                continue
            break
        source.close()

    asyncio.run(main())
    rows = [
        [
            row
            for entry in Reservoir(client).peek(partition_topic("sums", n), 100)
            for row in zip(*as_lists(entry), strict=True)
        ]
        for n in range(P)
    ]
    assert rows == [
        [(code, n) for n in range(4) for code in range(5) if partition_for(code, P) == at] for at in range(P)
    ]


def as_lists(entry: Any) -> tuple[list[int], list[int]]:
    return entry["rows"]["code"].tolist(), entry["rows"]["n"].tolist()


def test_plain_topic_is_partitioned_by_an_outlet_of_three_lines(client: redis.Redis) -> None:
    for n in range(10):
        Reservoir(client).push("bars", as_result(n))

    def repartition(bars: Stream) -> Stream:
        return bars

    with Bench(
        lambda bars: repartition(bars).to_redis("sums", partitions=P, key="code"), client=client, topics="bars"
    ) as bench:
        bench.drain()
        bench.stop()
    assert held(client) == expected(list(range(10)))


def test_another_partitioning_is_refused_when_the_pipeline_is_built(client: redis.Redis) -> None:
    declare(client, "sums", Partitioning(4, "code"))
    with pytest.raises(SettingsError, match=r"created with, 4 by key 'code' \(blake2b\), got 3 by key 'code'"):
        Stream().to_redis("sums", partitions=P, key="code", client=client)
