"""Events of a run are posted to a real Prefect server, also after an outage."""

import asyncio
import os
import subprocess
import sys
from uuid import uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.events import Event
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from flows.runtime.posting import PostingClient
from tests.support.plain import ROOT, Plain
from tests.support.ports import refusing_port
from tests.support.waiting import wait_until


def event(name: str, n: int = 0) -> Event:
    return Event(event=name, resource={"prefect.resource.id": "sluice.test"}, payload={"n": n})  # type: ignore[arg-type]


def stored(server: Plain, name: str) -> list[int]:
    """Return the numbers of the events of a name that the server has stored, oldest first."""
    answer = server.client.request(
        "POST", "/events/filter", json={"filter": {"event": {"name": [name]}, "order": "ASC"}, "limit": 50}
    )
    return [each["payload"]["n"] for each in answer.json()["events"]]


def test_events_that_the_server_misses_are_posted_in_order_with_the_next_one(prefect_server: Plain) -> None:
    name = f"sluice.{uuid4()}"
    there = prefect_server.env["PREFECT_API_URL"]
    away = f"http://127.0.0.1:{refusing_port()}/api"

    async def emit() -> None:
        with temporary_settings({PREFECT_API_URL: away}):
            client = await PostingClient().__aenter__()
            await client.emit(event(name, 1))
            await client.emit(event(name, 2))
        client._api = await get_client().__aenter__()
        await client.emit(event(name, 3))
        await client.__aexit__(None, None, None)

    with temporary_settings(
        {PREFECT_API_URL: there, PREFECT_API_AUTH_STRING: prefect_server.env["PREFECT_API_AUTH_STRING"]}
    ):
        asyncio.run(emit())
    wait_until(lambda: stored(prefect_server, name) == [1, 2, 3], "the events to be stored")


def test_events_beyond_the_bound_are_dropped_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def emit() -> list[int]:
        async with PostingClient() as client:
            for n in range(102):
                await client.emit(event("sluice.test", n))
            return [each.payload["n"] for each in client._waiting]

    async def fail(self: PostingClient) -> None: ...

    monkeypatch.setattr(PostingClient, "_send", fail)
    assert asyncio.run(emit()) == list(range(2, 102))
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2


def test_the_server_stores_events_but_no_heartbeats(prefect_server: Plain) -> None:
    name = f"sluice.{uuid4()}"

    async def emit() -> None:
        async with PostingClient() as client:
            await client.emit(event("prefect.flow-run.heartbeat"))
            await client.emit(event(name, 7))

    with temporary_settings(
        {
            PREFECT_API_URL: prefect_server.env["PREFECT_API_URL"],
            PREFECT_API_AUTH_STRING: prefect_server.env["PREFECT_API_AUTH_STRING"],
        }
    ):
        asyncio.run(emit())
    wait_until(lambda: stored(prefect_server, name) == [7], "the event behind it to be stored")
    assert stored(prefect_server, "prefect.flow-run.heartbeat") == []


@pytest.mark.parametrize(
    ("url", "client"),
    [
        ("http://127.0.0.1:4200/api", "PostingClient"),
        ("https://api.prefect.cloud/api/accounts/a", "PrefectCloudEventsClient"),
    ],
)
def test_only_events_for_prefect_cloud_keep_their_websocket(url: str, client: str) -> None:
    code = (
        "from flows.runtime.posting import post_events; post_events()\n"
        "from prefect.deployments.steps.core import get_events_client\n"
        "print(type(get_events_client(checkpoint_every=1)).__name__)"
    )
    env = os.environ | {"PREFECT_API_URL": url, "PREFECT_API_KEY": "none"}
    assert (
        subprocess.check_output([sys.executable, "-c", code], env=env, cwd=ROOT, text=True, timeout=240).strip()
        == client
    )


def test_process_posts_events_that_it_emits_right_before_its_end(prefect_server: Plain) -> None:
    name = f"sluice.{uuid4()}"
    code = (
        "from flows.runtime.posting import post_events; post_events()\n"
        "from prefect.events import emit_event\n"
        f"emit_event({name!r}, resource={{'prefect.resource.id': 'sluice.test'}}, payload={{'n': 4}})"
    )
    subprocess.run([sys.executable, "-c", code], env=prefect_server.env, cwd=ROOT, check=True, timeout=240)
    wait_until(lambda: stored(prefect_server, name) == [4], "the event to be stored")
