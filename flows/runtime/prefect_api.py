"""Requests to Prefect's API that fail soon: its own client repeats a request for about 70 s (3.9.1)."""

import contextvars
import hashlib
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from uuid import UUID

from httpx import HTTPStatusError, codes
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from tasks.base.logs import get_logger

__all__ = ["PATIENCE", "artifact_key", "await_server", "change", "impatient_client", "publish", "when_not_busy"]

PATIENCE = 3.0  # seconds a request may take

_AWAITED = 120.0  # seconds that the end of a run waits for the server
_TRIES, _BUSY = 8, 0.2  # requests, seconds between them, to a server that is busy for a moment

_PLAIN = re.compile(r"[A-Za-z0-9_.-]+")

T = TypeVar("T")

logger = get_logger(__name__)


@contextmanager
def impatient_client(patience: float = PATIENCE) -> Iterator[SyncPrefectClient]:
    """Give a client that sends each request once, and raises if the server does not answer in `patience` seconds."""
    with (
        temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
        get_client(sync_client=True, httpx_settings={"timeout": patience}) as client,
    ):
        yield client


def when_not_busy(act: Callable[[], T]) -> T:
    """Return the result of a request, which is repeated while the server on SQLite refuses it in favour of another write.

    raises    HTTPStatusError: it was refused several times, or for another reason
    """
    for _ in range(_TRIES - 1):
        try:
            return act()
        except HTTPStatusError as error:
            if error.response.status_code != codes.SERVICE_UNAVAILABLE:
                raise
        time.sleep(_BUSY)
    return act()


def await_server(log: logging.Logger | logging.LoggerAdapter[Any]) -> bool:
    """Wait until Prefect's server answers, for two minutes at most; return whether it does.

    Prefect 3.9.1 tries for about 70 s to report that a flow has ended, then takes its own failure for the flow's.
    """
    with impatient_client() as client:
        end, has_warned = time.monotonic() + _AWAITED, False
        while client.api_healthcheck() is not None:
            if time.monotonic() > end:
                return False
            if not has_warned:
                log.warning("the Prefect server does not answer; the run's end waits for it, %.0f s at most", _AWAITED)
            has_warned = True
            time.sleep(1)
    return True


def artifact_key(*names: str) -> str:
    """Return names as an artifact's key, which Prefect limits to lower-case letters, digits and dashes.

    A topic can have other characters. A digest then distinguishes it from topics that differ in those alone.

    >>> artifact_key("inlet", "clock", "seconds"), artifact_key("inlet", "clock", "seconds:utc")
    ('inlet-clock-seconds', 'inlet-clock-seconds-utc-442dba97')
    """
    text = "-".join(names)
    key = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return key if _PLAIN.fullmatch(text) else f"{key}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def publish(
    markdown: str, *, key: str, description: str, patience: float = 5.0, replaces: UUID | None = None
) -> UUID | None:
    """Publish an artifact of this run, unless the server does not answer in `patience` seconds; do nothing outside a flow run.

    Prefect's `db_vacuum` removes it together with the run.

    replaces  the artifact to change, as an earlier call has returned it
    returns   the artifact, if it is known
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return None
    artifact = ArtifactCreate(
        key=key, type="markdown", description=description, data=markdown, flow_run_id=context.flow_run.id
    )
    made = [replaces]

    def create() -> None:
        try:
            # Prefect's create_markdown_artifact leaves its connection open (3.9.1).
            with impatient_client() as client:
                if replaces is None or not change(client, replaces, markdown):
                    made[0] = client.create_artifact(artifact).id
        except Exception as error:  # noqa: BLE001 - a report is worth no run
            logger.info("no artifact %r: %s", key, type(error).__name__)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(create,), name="report", daemon=True)
    thread.start()
    thread.join(patience)
    return made[0]


def change(client: SyncPrefectClient, artifact: UUID, data: Any) -> bool:
    """Change an artifact's data; return False if it was deleted."""
    try:
        # Not update_artifact(): that emits an event with all of the data, a row of the database for each (3.9.1).
        client.request("PATCH", "/artifacts/{id}", json={"data": data}, path_params={"id": artifact})
    except HTTPStatusError as error:
        if error.response.status_code != codes.NOT_FOUND:
            raise
        return False
    return True
