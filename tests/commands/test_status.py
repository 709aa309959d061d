"""`sluice status --watch`, as JSON and on a terminal."""

import json
import shutil
import signal
import sys
from pathlib import Path

import pytest
import redis

from deployments.servers.redis_server import RedisServer
from tasks.reservoir import Reservoir
from tests.support.commands import redis_of, running
from tests.support.waiting import wait_until


def test_status_watch_prints_a_json_line_per_look_until_ctrl_c(
    tmp_path: Path, real_redis: redis.Redis, redis_server: RedisServer
) -> None:
    Reservoir(real_redis).push("signals", {"n": 7})
    with running("status", "--watch", "--json", env=redis_of(tmp_path, redis_server)) as (process, output):
        wait_until(lambda: output.read_text().count("\n") >= 2, "two looks")
        process.send_signal(signal.SIGINT)
        wait_until(lambda: process.poll() is not None, "Ctrl-C to end it")
    first, second, *_ = map(json.loads, output.read_text().splitlines())
    assert [each["topic"] for each in second["redis"]["topics"]] == ["signals"]
    assert first["time"] < second["time"]
    assert "no Prefect server answers" in first["prefect"]["error"]
    assert process.returncode == 1  # no Prefect


@pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("script"), reason="no util-linux' script(1) for a terminal"
)
def test_status_on_a_terminal_is_drawn_in_place(
    tmp_path: Path, real_redis: redis.Redis, redis_server: RedisServer
) -> None:
    Reservoir(real_redis).push("signals", {"n": 7})
    with running("status", "--watch", env=redis_of(tmp_path, redis_server), terminal=True) as (process, output):
        wait_until(lambda: output.read_text().count("Ctrl-C ends this") >= 2, "two looks")
        assert process.stdin
        process.stdin.write(b"\x03")
        process.stdin.flush()
        wait_until(lambda: process.poll() is not None, "Ctrl-C to end it")
    text = output.read_text()
    assert "\x1b[1A" in text, "the cursor went up, to draw over what was there"
    assert "Traceback" not in text
    assert "Aborted" not in text
