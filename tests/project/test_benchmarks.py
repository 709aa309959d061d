"""The benchmarks run at tiny sizes; their figures are not checked."""

from pathlib import Path

import pytest
import redis

from benchmarks import (
    children,
    flat_memory,
    fleet,
    frames,
    heavy,
    kept_state,
    latency,
    many,
    memory,
    partitions,
    report,
    scaling,
    states,
    throughput,
    windows,
    work,
)
from deployments.rollout.blueprint import read_blueprint
from deployments.servers.redis_server import RedisServer

pytestmark = pytest.mark.slow

PEERS = {"Bytewax": "bytewax", "walrus": "walrus", "FastStream": "faststream"}


@pytest.mark.parametrize("name", throughput.CANDIDATES)
def test_every_candidate_does_the_work_and_acknowledges_every_entry(
    real_redis: redis.Redis, redis_server: RedisServer, name: str
) -> None:
    if peer := PEERS.get(name.partition(",")[0]):
        pytest.importorskip(peer)
    if name.endswith("own format"):
        throughput.fill_own_format(redis_server.url, 20)
    else:
        work.fill(real_redis, 20, throughput.SHORT if name == "FastStream" else work.TOPIC)
    assert throughput.measure(name, redis_server.url, "group", 20) > 0


@pytest.mark.parametrize("name", windows.CANDIDATES)
def test_every_candidate_makes_the_same_number_of_bars(
    real_redis: redis.Redis, redis_server: RedisServer, name: str
) -> None:
    work.fill(real_redis, 20)
    assert windows.measure(name, redis_server.url, "group", 20) > 0
    assert min(windows.bars(frames=2, rows=3, repeats=1).values()) > 0


def test_fill_pushes_the_values_that_the_work_expects(real_redis: redis.Redis) -> None:
    from tasks import Reservoir

    work.fill(real_redis, 1200)
    assert [entry["value"] for entry in Reservoir(real_redis).peek(work.TOPIC, 1200)] == [
        work.value(n) for n in range(1200)
    ]


def test_each_measurement_runs_at_a_tiny_size(real_redis: redis.Redis, redis_server: RedisServer) -> None:
    url = redis_server.url
    assert frames.measure(url, "frames", repeats=1, rows=10)["whole"] > 0
    assert memory.fill_frames(url, "backlog", 3, 10) > 0
    assert memory.measure(url, "backlog", 5.0)["seen"] == 3
    assert scaling.push(url, "pushed", 10, 5) > 0
    assert scaling.push_raw(url, "pushed", 10, 5) > 0
    work.fill(real_redis, 20)
    assert scaling.cost(url=url, topic=work.TOPIC, group="cost", first=10, count=10, nodes=2) > 0


@pytest.mark.parametrize("kind", states.STATES)
def test_each_kind_of_state_is_measured(kind: str) -> None:
    assert min(states.measure(kind, count=3, repeats=1).values()) > 0


@pytest.mark.parametrize("name", kept_state.KEPT_STATE)
def test_every_candidate_that_keeps_state_adds_up_all_entries(
    real_redis: redis.Redis, redis_server: RedisServer, name: str
) -> None:
    if "Bytewax" in name:
        pytest.importorskip("bytewax")
    kept_state.fill_keys(redis_server.url, 20, 5)
    assert kept_state.measure(name, redis_server.url, 20) > 0


def test_memory_is_measured_after_each_part_of_the_entries(real_redis: redis.Redis, redis_server: RedisServer) -> None:
    found = flat_memory.measure(redis_server.url, 40, keys=5, keep=30, parts=4)
    assert [one["entries"] for one in found] == [10, 20, 30, 40]
    assert min(value for one in found for value in one.values()) >= 0


@pytest.mark.parametrize("count", [0, partitions.SPLIT])
def test_pushes_of_frames_are_measured(real_redis: redis.Redis, redis_server: RedisServer, count: int) -> None:
    assert partitions.push(redis_server.url, count, 2, 20) > 0


def test_runs_that_share_partitions_are_measured(real_redis: redis.Redis, redis_server: RedisServer) -> None:
    assert (
        partitions.compare(redis_server.url, "group", runs=2, partitions=partitions.PARTITIONS, count=400, work=0.0) > 0
    )


@pytest.mark.parametrize(("runs", "count"), [(1, 0), (2, partitions.PARTITIONS)])
def test_runs_that_share_frames_find_what_pandas_finds(
    real_redis: redis.Redis, redis_server: RedisServer, runs: int, count: int
) -> None:
    options = {"runs": runs, "partitions": count, "count": 14, "rows": 20}
    assert partitions.compare_frames(redis_server.url, "group", **options) > 0


def test_a_simulated_fleet_has_figures_for_each_kind_of_change(
    real_redis: redis.Redis, redis_server: RedisServer
) -> None:
    found = fleet.figures(redis_server.url, partitions=4, runs=2, changes=4, seed=1)
    assert sum(of["number"] for of in found["kinds"].values()) == 4
    assert found["seconds"] > 0


def test_measurements_in_processes_run_at_a_tiny_size(real_redis: redis.Redis, redis_server: RedisServer) -> None:
    work.fill(real_redis, 20)
    assert scaling.replicas(redis_server.url, "group", 1, 20, 0.0) > 0
    assert latency.measure(redis_server.url, 100, 0.2)["p50"] > 0
    with pytest.raises(RuntimeError, match="exit code 1"):
        children.call("work:value")


@pytest.mark.timeout(300)  # a cluster and its workers import Dask, Sluice and pandas
@pytest.mark.parametrize("name", heavy.CANDIDATES)
def test_heavy_steps_run_at_a_tiny_size(real_redis: redis.Redis, redis_server: RedisServer, name: str) -> None:
    work.fill(real_redis, 4)
    assert children.call("heavy:heavy", url=redis_server.url, group="group", name=name, count=4, work=0.001) > 0


def test_report_draws_a_plot_and_writes_a_table_between_markers(tmp_path: Path) -> None:
    drawn = report.plot("Title", "x", "y", {10: 1.0, 1000: 2.5}, logarithmic=True)
    assert drawn.count("<circle") == 2
    file = tmp_path / "README.md"
    file.write_text("before\n<!-- benchmark -->\nold\n<!-- /benchmark -->\nafter\n")
    report.between_markers(file, report.table([("a", "1", "")], ("what", "how much", "")))
    assert "old" not in file.read_text()
    assert "| a | 1 |  |" in file.read_text()
    assert file.read_text().endswith("<!-- /benchmark -->\nafter\n")


def test_ticks_between_two_are_missing_doubled_or_late() -> None:
    entries = [(999, 0.999), (1_020, 1.001), (2_500, 2.4), (2_600, 2.5), (4_010, 4.0), (9_000, 9.0)]
    assert many.Ticks.of(entries, first=1, last=4) == many.Ticks(missing=1, doubled=1, late_ms=[20, 500, 600, 10])


def test_many_inlets_are_added_to_a_copy_of_a_checkout(tmp_path: Path) -> None:
    many.with_inlets(many.Path(__file__).parents[2], tmp_path / "copy", 3)
    declared = read_blueprint(tmp_path / "copy" / "prefect.yaml").deployments
    assert [each.function for each in declared][-3:] == ["many0", "many1", "many2"]
    assert all(each.unanchored == {"every-10-minutes"} for each in declared[-3:])
