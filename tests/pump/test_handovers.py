"""Hand-overs between real processes on a real Redis."""

import pytest
import redis

from deployments.servers.redis_server import RedisServer
from tests.chaos.inlet import check, hand_over, pushed_ticks


def test_hand_overs_double_no_tick_keep_their_order_and_lose_none_in_silence(
    redis_server: RedisServer, real_redis: redis.Redis
) -> None:
    """On a busy machine, a run may be late for a tick, and counts it as missed."""
    counts = hand_over(redis_server.url, 4, pause=0.5)
    check(real_redis, counts)
    assert counts["pushed"] > 20


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_a_hundred_hand_overs_lose_no_tick_double_none_and_keep_their_order(
    redis_server: RedisServer, real_redis: redis.Redis
) -> None:
    counts = hand_over(redis_server.url, 100, pause=0.7)
    ticks, off = pushed_ticks(real_redis)
    print(f"\n{len(ticks)} ticks, {sum(o < 0.02 for o in off) / len(off):.2%} within 20 ms of the grid, p50 {off[len(off) // 2] * 1000:.2f} ms, p99.9 {off[int(0.999 * (len(off) - 1))] * 1000:.1f} ms, worst {off[-1] * 1000:.1f} ms")  # fmt: skip # noqa: T201
    print(check(real_redis, counts))  # noqa: T201
    assert ticks == list(range(ticks[0], ticks[-1] + 1))


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_a_hundred_hand_overs_with_kills_double_no_tick_and_keep_their_order(
    redis_server: RedisServer, real_redis: redis.Redis
) -> None:
    counts = hand_over(redis_server.url, 100, pause=0.7, kill=0.4)
    ticks, _ = pushed_ticks(real_redis)
    print(f"\n{counts['killed']} killed, {len(ticks)} of {ticks[-1] - ticks[0] + 1} ticks pushed")  # noqa: T201
    assert ticks == sorted(set(ticks))


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_a_pump_that_blocks_six_seconds_pushes_every_second_across_hand_overs(
    redis_server: RedisServer, real_redis: redis.Redis
) -> None:
    hand_over(redis_server.url, 5, pause=20.0, block=6.0, every=1.0, threads=10)
    ticks, _ = pushed_ticks(real_redis)
    print(f"\n{len(ticks)} ticks")  # noqa: T201
    assert ticks == list(range(ticks[0], ticks[-1] + 1))
