"""Packing: the server receives the same bytes as from redis-py, and large values are not copied."""

import os

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from redis.connection import HiredisRespSerializer
from redis.exceptions import DataError

from deployments.servers.redis_server import RedisServer
from tasks.reservoir.connection import connect
from tasks.reservoir.packing import PACKER

LARGE = b"x\r\n$5\r\n" * 20_000

arguments = st.one_of(
    st.binary(max_size=40),
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.integers(),
    st.floats(allow_nan=False),
    st.builds(bytearray, st.binary(max_size=40)),
    st.just(LARGE),
)


@given(name=st.sampled_from(["XADD", "XREADGROUP", "SCRIPT LOAD"]), given=st.lists(arguments, max_size=80))
def test_commands_are_packed_as_by_redis_py(name: str, given: list[bytes | bytearray | str | float]) -> None:
    expected = HiredisRespSerializer().pack(name, *given)
    assert b"".join(PACKER.pack(name, *given)) == b"".join(expected)


def test_large_values_are_not_copied() -> None:
    assert any(piece is LARGE for piece in PACKER.pack("XADD", "topic", "*", "field", LARGE))


@pytest.mark.parametrize("large", [b"", LARGE], ids=["small", "large"])
def test_values_that_redis_cannot_hold_are_refused(large: bytes) -> None:
    with pytest.raises(DataError):
        PACKER.pack("SET", "key", large, None)


def test_large_values_arrive_as_they_were(redis_server: RedisServer, real_redis: redis.Redis) -> None:
    client = connect(redis_server.url)
    values = [os.urandom(size) for size in (65_535, 65_536, 3_000_000)]
    with client.pipeline() as pipe:
        for value in values:
            pipe.xadd("topic", {"value": value})
        pipe.execute()
    assert [fields[b"value"] for _, fields in client.xrange("topic")] == values
