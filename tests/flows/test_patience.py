"""Runs wait for Redis to start, unless waiting cannot help, and at their end for Prefect's server."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest
import redis
from streamz import Stream

from deployments.servers.redis_server import RedisServer
from flows import inlet, outlet
from flows.runtime import prefect_api
from tasks import SluiceError, UnavailableError
from tests.support.streams import push_all
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


def test_a_run_waits_at_its_end_for_a_server_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([ConnectionError(), ConnectionError(), None])

    class Away:
        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None: ...

        def api_healthcheck(self) -> Exception | None:
            return next(answers)

    monkeypatch.setattr(prefect_api, "get_client", lambda **_: Away())
    monkeypatch.setattr(prefect_api.time, "sleep", lambda _: None)
    assert prefect_api.await_server(logging.getLogger())
    assert list(answers) == []


def test_a_run_waits_for_redis_to_start_but_fails_at_once_on_a_wrong_password(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, stop_run: Callable[[], None]
) -> None:
    seen: list[int] = []

    @outlet(topics="topic", group="group", run_for="90s")
    def patient(source: Stream) -> None:
        source.map(lambda e: e["n"]).sink(seen.append)

    server = RedisServer(tmp_path, tied=False)  # it outlives the thread that starts it
    monkeypatch.setenv("SLUICE_REDIS_URL", server.url)

    def come() -> None:
        wait_until(lambda: "trying again until it does" in caplog.text, "the first try")
        server.__enter__()
        push_all(redis.Redis.from_url(server.url, protocol=2), "topic", range(3))

    helper = threading.Thread(target=come)
    helper.start()
    stop_when = threading.Thread(target=lambda: (wait_until(lambda: len(seen) == 3, "entries"), stop_run()))
    stop_when.start()
    try:
        patient.fn()
        assert seen == [0, 1, 2]
        monkeypatch.setenv("SLUICE_REDIS_URL", server.url.replace("unix://", "unix://user:wrong@"))
        with pytest.raises(SluiceError, match="refuses the user or password"):
            patient.fn()
    finally:
        helper.join()
        stop_when.join()
        server.__exit__(None, None, None)
