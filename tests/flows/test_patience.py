"""An inlet's run waits for Redis to start, unless waiting cannot help. For outlets, see tests/flows/test_watch.py."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from deployments.servers.redis_server import RedisServer
from flows import inlet
from tasks import UnavailableError
from tests.support.waiting import wait_until


@inlet(topic="numbers", every="50ms", window="90s")
def numbers() -> dict[str, int]:
    return {"n": 1}


def test_an_inlet_waits_for_a_redis_that_is_not_there_yet(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    stop_run: Callable[[], None],
) -> None:
    server = RedisServer(tmp_path, tied=False)  # it outlives the thread that starts it
    monkeypatch.setenv("SLUICE_REDIS_URL", server.url)

    def come() -> None:
        wait_until(lambda: "trying again until it does" in caplog.text, "the first try")
        server.start()
        with redis.Redis.from_url(server.url, protocol=2) as client:
            wait_until(lambda: client.xlen("numbers"), "a push")
        stop_run()

    helper = threading.Thread(target=come)
    helper.start()
    try:
        assert "pushed" in numbers.fn()
    finally:
        helper.join()
        server.stop()


def test_an_inlet_fails_at_once_where_waiting_is_of_no_use(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SLUICE_REDIS_URL", redis_server.url.replace("unix://", "unix://user:wrong@"))
    with pytest.raises(UnavailableError, match="refuses the user or password"):
        numbers.fn()
    assert "trying again" not in caplog.text
