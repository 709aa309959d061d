"""The format of a stored state: bytes of format 1 are read for good, and those of another format are refused."""

import operator
from typing import Any

import pytest
import redis
from streamz import Stream

from tasks import PipelineError
from tasks.reservoir.keys import state_key
from tasks.testing import Bench

# What `build` has stored of the entries 1, 2 and 3, except the owner.
FORMAT_1 = {
    b"1:\x01\x00": b"\x01\xc7\x03\x01\x92\x00\x02",
    b"1:\x01\x01": b"\x01\xc7\x03\x01\x92\x00\x04",
    b"2:\x01\x01": b"\x01\xc0",
    b"2:\x01\x02": b"\x01\xc0",
    b"2:\x01\x03": b"\x01\xc0",
    b"3:\x01\x00": b"\x01\x91\xc7'\x01\x92\x02\x91\xc7!\x01\x94\xa5topic\xaf1796041399706-1\xc2\xcf\x00\x00\x01\xa2,h\xdd\x9a",
    b"3:\x01\x01": b"\x01\x92\xc7'\x01\x92\x01\x91\xc7!\x01\x94\xa5topic\xaf1796041399706-0\xc2\xcf\x00\x00\x01\xa2,h\xdd\x9a"
    b"\xc7'\x01\x92\x03\x91\xc7!\x01\x94\xa5topic\xaf1796041399706-2\xc2\xcf\x00\x00\x01\xa2,h\xdd\x9a",
    b"4:0": b"\x01\x02",
    b"4:1": b"\x01\x03",
    b"4:=": b"\x01\xc7*\x01\x92\x91\x91\xc7!\x01\x94\xa5topic\xaf1796041399706-2\xc2\xcf\x00\x00\x01\xa2,h\xdd\x9a\x92\x00\x01",
    b"5:": b"\x01\x06",
    b"cut": b"f2ff72f5c744413994d1e524f6507426",
    b"format": b"1",
    b"node:by parity": b'[1, "{\\"returns_state\\": false, \\"type\\": \\"keyed_state\\"}", 2, 18, 1796041399.729]',
    b"node:pairs": b'[3, "{\\"n\\": 2, \\"partial\\": true, \\"type\\": \\"keyed_window\\"}", 2, 134, 1796041399.729]',
    b"node:seen": b'[2, "{\\"is_hashable\\": true, \\"maxsize\\": null, \\"type\\": \\"unique\\"}", 3, 12, 1796041399.729]',
    b"node:total": b'[5, "{\\"returns_state\\": false, \\"type\\": \\"accumulate\\", \\"with_state\\": false}", 1, 2, 1796041399.729]',
    b"node:window": b'[4, "{\\"n\\": 2, \\"partial\\": true, \\"type\\": \\"sliding_window\\"}", 3, 53, 1796041399.729]',
    b"time": b"1796041399.729",
    b"version": b"1",
}


def build(source: Stream, seen: list[Any]) -> Stream:
    numbers = source.pluck("n")
    numbers.keyed_state(operator.add, key=lambda n: n % 2, start=0, stream_name="by parity").sink(seen.append)
    numbers.unique(stream_name="seen").sink(seen.append)
    numbers.sliding_window(2, key=lambda n: n % 2, stream_name="pairs").sink(seen.append)
    numbers.sliding_window(2, stream_name="window").sink(seen.append)
    return numbers.accumulate(operator.add, start=0, stream_name="total")


def stored(client: Any, **changed: bytes) -> None:
    client.xgroup_create("topic", "group", "0", mkstream=True)
    client.hset(state_key("group"), mapping=FORMAT_1 | {name.encode(): value for name, value in changed.items()})


def test_state_of_format_1_is_read(client: redis.Redis) -> None:
    stored(client)
    seen: list[Any] = []
    with Bench(build, client=client, seen=seen) as bench:
        bench.push({"n": 3})
        bench.drain()
        assert bench.results == [9]
        assert seen == [(1, 7), (3, 3), (3, 3)]  # by parity, pairs, window; 3 was seen before


def test_state_of_another_format_is_refused_and_left_as_it_is(client: redis.Redis) -> None:
    stored(client, format=b"2")
    with Bench(build, client=client, seen=[]) as bench:
        bench.push({"n": 4})
        with pytest.raises(PipelineError, match="expected a stored state of format 1, got format 2: another version"):
            bench.drain()
        assert bench.unread == [{"n": 4}]
    left: Any = client.hgetall(state_key("group"))
    left.pop(b"owner")
    assert left == FORMAT_1 | {b"format": b"2"}
