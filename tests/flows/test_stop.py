"""Stopping: entries in flight are finished and acknowledged, others handed back, and nothing waits for ever."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import redis
from rich.console import Console
from streamz import Stream

from deployments.servers.redis_server import RedisServer
from flows import outlet
from tasks.group.membership import HANDED_BACK
from tests.support.streams import pending, push_all
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def url(redis_server: RedisServer, real_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SLUICE_REDIS_URL", redis_server.url)
    return redis_server.url


def given_back(client: redis.Redis) -> list[str]:
    """Return the pending entries, all of which must be handed back."""
    waiting = client.xpending_range("topic", "group", "-", "+", 10_000)
    assert {p["consumer"].decode() for p in waiting} <= {HANDED_BACK}
    return [p["message_id"].decode() for p in waiting]


def test_a_stop_finishes_buffered_entries_and_hands_back_all_others(real_redis: redis.Redis) -> None:
    ids = push_all(real_redis, "topic", range(200))
    seen: list[str] = []
    is_stopped = threading.Event()

    async def sink(entry: Any) -> None:
        while not is_stopped.is_set():  # noqa: ASYNC110 - it is set in another thread
            await asyncio.sleep(0.002)
        seen.append(entry.id)

    source = Stream.from_redis("topic", group="group")
    kept = source.buffer(50).sink(sink)
    source.start()
    wait_until(lambda: source.latest_run.in_flight > 50, "a full buffer")
    source.stop()
    is_stopped.set()
    source.join(20)
    assert len(seen) > 50
    assert seen + given_back(real_redis) == ids
    del kept


def test_an_endless_sink_is_abandoned_after_the_grace_period(
    real_redis: redis.Redis,
) -> None:
    ids = push_all(real_redis, "topic", range(3))
    busy = threading.Event()

    async def sink(_: Any) -> None:
        busy.set()
        await asyncio.Event().wait()

    source = Stream.from_redis("topic", group="group", grace=0.3)
    kept = source.sink(sink)
    source.start()
    assert busy.wait(20)
    source.stop()
    source.join(10)
    assert given_back(real_redis) == ids
    del kept


def test_a_stop_writes_the_held_rows_even_behind_a_slow_element(real_redis: redis.Redis, tmp_path: Path) -> None:
    push_all(real_redis, "topic", range(6))
    busy, never = threading.Event(), threading.Event()

    def slow(entry: Any) -> Any:
        if entry["n"] == 5:
            busy.set()
            never.wait(1.2)  # longer than a stop waits before it checks
        return entry

    source = Stream.from_redis("topic", group="group")
    source.map(slow).to_parquet(tmp_path)
    source.start()
    assert busy.wait(20)
    source.stop()
    source.join(20)
    assert pending(real_redis) == []
    assert len([file for file in tmp_path.rglob("*.parquet") if file.name != "columns.parquet"]) == 1


def test_a_source_stops_while_redis_is_away(tmp_path: Any) -> None:
    with RedisServer(tmp_path) as server:
        push_all(client := redis.Redis.from_url(server.url, protocol=2), "topic", range(3))
        source = Stream.from_redis("topic", group="group", url=server.url, grace=0.5)
        seen = source.sliding_window(2).sink_to_list()
        source.start()
        wait_until(lambda: len(seen) == 3, "three windows")
        client.close()
    source.stop()
    source.join(20)


def test_outlet_runs_for_the_given_time(real_redis: redis.Redis) -> None:
    push_all(real_redis, "topic", range(10))

    @outlet(topics="topic", group="group", into="doubles", run_for="500ms")
    def doubles(source: Stream, by: int = 2) -> Stream:
        return source.map(lambda e: {"double": by * e["n"]})

    doubles.fn()
    assert real_redis.xlen("doubles") == 10
    assert pending(real_redis) == []


def test_a_run_in_its_own_process_freezes_its_loaded_objects(
    real_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_all(real_redis, "topic", range(3))
    frozen: list[int] = []

    @outlet(topics="topic", group="group", until="now")
    def looks(source: Stream) -> None:
        source.sink(lambda _: frozen.append(gc.get_freeze_count()))

    monkeypatch.setattr(Console, "on_broken_pipe", Console.on_broken_pipe)  # a run's process has changed them
    gc.unfreeze()
    try:
        looks.fn()
        assert frozen == [0, 0, 0]
        monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "00000000-0000-0000-0000-000000000000")
        push_all(real_redis, "topic", [3])
        looks.fn()
        assert frozen[3] > 100_000
    finally:
        gc.unfreeze()


def test_an_outlet_logs_its_counts_and_latest_result_at_most_once_a_minute(
    real_redis: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    push_all(real_redis, "topic", range(10))
    caplog.set_level("INFO", "flows.outlets")

    @outlet(topics="topic", group="group", run_for="1s")
    def frames(source: Stream) -> Stream:
        return source.map(lambda e: pd.DataFrame({"n": [20 // e["n"]] * 20}))

    frames.fn()
    [message] = [record.getMessage() for record in caplog.records if record.name == "flows.outlets"]
    first = "frames: group 'group' has read 10 entries of topic, 1 failure; what failed: `sluice dead topic group`"
    assert message.startswith(f"{first}; the latest result\\n")  # a log outside a run has lines, not blocks
    assert message.endswith("[20 rows x 1 columns]")
    assert message.count("\\n") == 12


def test_an_outlet_that_lost_its_lease_begins_again_with_the_pending_entries(
    real_redis: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    push_all(real_redis, "topic", range(6))
    windows: list[list[int]] = []
    robbed: list[bool] = []

    def rob(entry: Any) -> Any:
        """Claim all entries as a peer does that counts this consumer as dead."""
        if entry["n"] == 3 and not robbed:
            robbed.append(True)
            for lease in real_redis.scan_iter("sluice:lease:*"):
                real_redis.set(lease, "claimed", px=60_000)
            waiting = [p["message_id"] for p in real_redis.xpending_range("topic", "group", "-", "+", 100)]
            real_redis.xclaim("topic", "group", HANDED_BACK, 0, waiting)
        return entry

    @outlet(topics="topic", group="group", run_for="2s", lease="1s")
    def pairs(source: Stream) -> None:
        numbers = source.map(rob).pluck("n")
        numbers.sliding_window(2, return_partial=False).map(list).sink(windows.append)

    pairs.fn()
    assert "begins again" in caplog.text
    # The new run may see entries again that the dead one saw; none is missing or wrong.
    assert {tuple(w) for w in windows} == {(n, n + 1) for n in range(5)}
    assert windows[-1] == [4, 5]
    assert given_back(real_redis) == pending(real_redis)


ORPHAN = """
import sys
from pathlib import Path
from prefect.logging import get_logger
from prefect.logging.configuration import setup_logging
from flows.runtime.stopping import outlast_the_worker

setup_logging()
outlast_the_worker()
for _ in range(2):
    get_logger().warning("an entry failed")
Path(sys.argv[1]).write_text("it goes on")
"""


def test_a_run_continues_when_its_worker_was_killed_and_its_output_pipe_is_broken(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    mark = tmp_path / "mark"
    env = {**os.environ, "PREFECT__FLOW_RUN_ID": "0d4bf8f4-7a4c-4d43-9c3d-5a7c8f5a2f10"}
    command = [sys.executable, "-c", ORPHAN, str(mark)]
    subprocess.run(command, stdout=writer, stderr=writer, env=env, check=False, timeout=240)
    os.close(writer)
    assert mark.exists()


CANCELLED = """
import os
import signal
from prefect.utilities.engine import capture_sigterm
from flows.runtime.stopping import stop_on_signals

with capture_sigterm():
    with stop_on_signals() as stop:
        stop.set()
    os.kill(os.getpid(), signal.SIGTERM)
    print("the run reports that it was cancelled")
"""


def test_the_signal_of_a_cancel_that_the_run_has_seen_before_is_no_crash() -> None:
    env = {**os.environ, "PREFECT__FLOW_RUN_ID": "0d4bf8f4-7a4c-4d43-9c3d-5a7c8f5a2f10"}
    command = [sys.executable, "-c", CANCELLED]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=240)
    assert (done.returncode, done.stdout) == (0, "the run reports that it was cancelled\n"), done.stderr
