"""`sluice state`: shows, exports and deletes what nodes remember."""

import json
import operator
from pathlib import Path

import pytest
import redis
from streamz import Stream

from tasks.testing import Bench
from tests.support.commands import Sluice


def build(s: Stream) -> Stream:
    numbers = s.pluck("n")
    numbers.keyed_state(operator.add, key=lambda n: n % 2, start=0, stream_name="by parity").sink(id)
    return numbers.accumulate(operator.add, start=0, stream_name="total")


def run(client: redis.Redis, *numbers: int) -> list[int]:
    """Run the pipeline on these numbers, from its start to its stop, and return its results."""
    with Bench(build, client=client, topics="numbers", group="sums") as bench:
        bench.push(*({"n": n} for n in numbers))
        bench.drain()
        bench.stop()
        return bench.results


def test_state_of_each_node_is_listed(sluice: Sluice, real_redis: redis.Redis) -> None:
    assert sluice("state") == (0, "no group keeps state\n")
    run(real_redis, 1, 2, 3)
    code, shown = sluice("state", "sums")
    assert code == 0
    rows = [[cell.strip() for cell in line.split("│")][:3] for line in shown.splitlines()[2:]]
    assert rows == [["sums", "by parity", "2"], ["sums", "total", "1"]]


def test_reset_of_one_node_leaves_the_others(sluice: Sluice, real_redis: redis.Redis) -> None:
    run(real_redis, 1, 2, 3)
    code, shown = sluice("state", "sums", "--reset", "total", answer="n\n")
    assert code == 1
    assert run(real_redis, 4) == [10]
    code, shown = sluice("state", "sums", "--reset", "total", "--yes")
    assert (code, shown) == (0, "the state of node 'total' of group 'sums' is deleted, 1 field\n")
    assert run(real_redis, 5) == [5]
    assert "by parity" in sluice("state", "sums")[1]


def test_a_running_pipeline_continues_with_what_a_reset_leaves(sluice: Sluice, real_redis: redis.Redis) -> None:
    from tasks import StateConflictError

    with Bench(build, client=real_redis, topics="numbers", group="sums") as bench:
        bench.push({"n": 1})
        bench.drain()
        sluice("state", "sums", "--reset", "total", "--yes")
        bench.push({"n": 2})
        with pytest.raises(StateConflictError, match="or the state was reset"):
            bench.drain()
        bench.crash(after=1)
        bench.drain()
        assert bench.results[-1] == 2


def test_export_writes_keys_and_values(sluice: Sluice, real_redis: redis.Redis, tmp_path: Path) -> None:
    run(real_redis, 1, 2, 3)
    code, _ = sluice("state", "sums", "--export", str(tmp_path / "state.json"))
    assert code == 0
    nodes = json.loads((tmp_path / "state.json").read_text())["nodes"]
    assert nodes["total"] == [{"field": "", "value": 6}]
    assert sorted((one["field"], one["value"][1]) for one in nodes["by parity"]) == [(0, 2), (1, 4)]


def test_refusals_name_existing_topics_and_groups(sluice: Sluice, real_redis: redis.Redis) -> None:
    run(real_redis, 1)
    code, shown = sluice("state", "movers")
    assert (code, shown) == (1, "sluice: expected a group that keeps state ('sums'), got 'movers'\n")
    code, shown = sluice("state", "sums", "--reset", "other", "--yes")
    assert code == 1
    assert "expected a node with a stored state ('by parity', 'total'), got 'other'" in shown
