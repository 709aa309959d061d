"""`sluice peek`: entries of a topic, and topics that do not exist."""

import json
import signal
import subprocess
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pandas as pd
import redis

from deployments.servers.redis_server import RedisServer
from tasks.reservoir import Reservoir
from tasks.reservoir.entry import TIME_FIELD
from tests.support.commands import redis_of, running
from tests.support.ports import refusing_port
from tests.support.waiting import wait_until


def test_a_name_that_is_no_topic_is_refused(refusal: Callable[..., str], redis_server: RedisServer) -> None:
    assert "got 'no topic'" in refusal("peek", "no topic", SLUICE_REDIS_URL=redis_server.url)


def test_peek_of_a_missing_topic_lists_the_existing_ones(
    refusal: Callable[..., str], redis_server: RedisServer, real_redis: redis.Redis
) -> None:
    real_redis.xadd("signals", {"n": 7})
    line = refusal("peek", "nothing", SLUICE_REDIS_URL=redis_server.url)
    assert line == "sluice: expected a topic, got 'nothing'; there are: signals"


def test_peek_shows_the_newest_entries_and_status_the_topics(
    in_process: Callable[..., subprocess.CompletedProcess[str]], redis_server: RedisServer, real_redis: redis.Redis
) -> None:
    reservoir = Reservoir(real_redis)
    reservoir.push("signals", {"moved": pd.DataFrame({"code": ["150001", "150002"], "change": [1.5, -2.0]})})
    real_redis.xadd("signals", {"n": 7, TIME_FIELD: "1700000000000"})
    url = {"SLUICE_REDIS_URL": redis_server.url}
    shown = in_process("peek", "signals", "-n", "2", **url).stdout
    assert shown.index("150002") < shown.index("n ")
    assert in_process("peek", "signals", **url).stderr == "1 of 2 entries of signals\n"
    assert "7" in shown
    assert f"{datetime.fromtimestamp(1_700_000_000):%H:%M:%S}" in shown
    assert "2023-11-14T22:13:20" in in_process("peek", "signals", "--json", **url).stdout
    status = in_process("status", PREFECT_API_URL=f"http://127.0.0.1:{refusing_port()}/api", **url)
    assert status.returncode == 1  # no Prefect
    assert "not running here" in status.stdout
    assert "no Prefect server answers" in status.stdout
    assert "signals" in status.stdout


def test_peek_follows_a_missing_topic_through_an_outage_without_a_group(tmp_path: Path) -> None:
    with (
        RedisServer(tmp_path / "redis") as server,
        running("peek", "signals", "--follow", "--json", env=redis_of(tmp_path, server)) as (process, output),
    ):
        wait_until(
            lambda: "there is no topic 'signals' yet (there are: none yet); waiting for it" in output.read_text(),
            "it to wait",
        )
        reservoir = Reservoir.from_url(server.url)
        reservoir.push_many("signals", [{"n": 1}, {"n": 2}])
        wait_until(lambda: '"fields": {"n": 2}' in output.read_text(), "the first two")
        server.kill()
        wait_until(lambda: "does not answer; trying again" in output.read_text(), "it to see that Redis is away")
        server.start()
        reservoir.push("signals", {"n": 3})
        wait_until(lambda: '"fields": {"n": 3}' in output.read_text(), "the third one")
        process.send_signal(signal.SIGINT)
        wait_until(lambda: process.poll() is not None, "Ctrl-C to end it")
        assert process.returncode == 0
        shown = [json.loads(text)["fields"]["n"] for text in output.read_text().splitlines() if text.startswith("{")]
        assert shown == [1, 2, 3]
        assert reservoir.client.xinfo_groups("signals") == []
