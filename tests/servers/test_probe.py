"""The probe: it distinguishes a server that no longer accepts writes from one that does."""

import sqlite3
from contextlib import closing, suppress

import pytest
from httpx import HTTPError, HTTPStatusError, ReadTimeout
from hypothesis import given
from hypothesis import strategies as st
from prefect.client.orchestration import SyncPrefectClient
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from deployments.rollout import apply as rollout
from deployments.servers.probe import WriteProbe, write_through
from flows.runtime.prefect_api import impatient_client
from tests.support.plain import Plain
from tests.support.waiting import wait_until


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([1.0, 5.0, 12.0, 3600.0])), max_size=30))
def test_a_server_is_stuck_after_30_s_and_three_tries_without_a_write(tries: list[tuple[bool, float]]) -> None:
    now = 0.0
    fails = False

    def write(_: SyncPrefectClient) -> None:
        if fails:
            raise ReadTimeout("late")  # noqa: EM101

    probe = WriteProbe(write, clock=lambda: now)
    last, failed = 0.0, 0
    for fails, seconds in tries:
        now += seconds
        probe.step(None)  # type: ignore[arg-type]
        last, failed = (last, failed + 1) if fails else (now, 0)
        assert probe.is_stuck == (failed >= 3 and now - last > 30)
    probe.reset()
    assert not probe.is_stuck


def test_the_probe_writes_and_fails_while_the_database_is_locked(prefect_server: Plain) -> None:
    rollout.ensure_pool(prefect_server.client)

    def updated() -> object:
        return prefect_server.client.request("GET", "/work_pools/sluice/queues/default").json()["updated"]  # type: ignore[arg-type]

    before = updated()
    with (
        temporary_settings(
            {
                PREFECT_API_URL: prefect_server.env["PREFECT_API_URL"],
                PREFECT_API_AUTH_STRING: prefect_server.env["PREFECT_API_AUTH_STRING"],
            }
        ),
        impatient_client(5) as client,
    ):
        wait_until(lambda: gets_through(client), "a write")
        assert updated() != before
        with closing(sqlite3.connect(prefect_server.folder / "prefect" / "prefect.db", timeout=60)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(HTTPError):
                write_through(client)
            other.rollback()
        wait_until(lambda: gets_through(client), "a write after the lock")


def gets_through(client: SyncPrefectClient) -> bool:
    with suppress(HTTPStatusError):  # during another transaction, it is refused at once
        write_through(client)
        return True
    return False
