"""Sends the events of a run to the Prefect server by single requests instead of an open websocket."""

from collections import deque
from types import TracebackType

from httpx import HTTPError
from prefect.client.orchestration import PrefectClient, get_client
from prefect.events import Event, clients, utilities, worker
from prefect.events.clients import EventsClient
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.runtime.prefect_api import PATIENCE
from tasks.base.logs import get_logger

__all__ = ["PostingClient", "post_events"]

_KEPT = 100  # newest events, which wait for a server that is away
# Events that nothing displays: here, that the run has changed into the folder of its deployment.
_UNSHOWN = frozenset({"prefect.flow-run.pull-step.executed"})

logger = get_logger(__name__)


class PostingClient(EventsClient):
    """Sends each event together with earlier ones that could not be sent. During an outage of the server, the newest wait.

    Prefect's own client holds a websocket for as long as the process lives (3.9.1). A run sends an event every 30 s.
    """

    def __init__(self, **_: object) -> None:
        self._waiting: deque[Event] = deque(maxlen=_KEPT)
        self._api: PrefectClient | None = None

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        if self._waiting:
            await self._send()
        if self._api:
            await self._api.__aexit__(exc_type, exc_val, exc_tb)
        await super().__aexit__(exc_type, exc_val, exc_tb)

    async def _emit(self, event: Event) -> None:
        if event.event in _UNSHOWN:
            return
        if len(self._waiting) == _KEPT:
            logger.warning("the Prefect server is away: an event %r was dropped", self._waiting[0].event)
        self._waiting.append(event)
        await self._send()

    async def _send(self) -> None:
        if self._api is None:
            self._api = await get_client(httpx_settings={"timeout": PATIENCE}).__aenter__()
        batch = list(self._waiting)
        try:
            # No retries, which would delay later events: these are sent with the next one.
            with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
                await self._api.request("POST", "/events", json=[event.model_dump(mode="json") for event in batch])
        except HTTPError as error:
            logger.debug("%d events wait for the Prefect server (%s)", len(batch), type(error).__name__)
        else:
            self._waiting.clear()


def post_events() -> None:
    """Post the events that this process would send over a websocket, except those for Prefect Cloud."""
    # Pull steps get their client from the first module; the second one drops the events of unknown clients.
    for module in (clients, utilities, worker):
        module.PrefectEventsClient = PostingClient  # type: ignore[assignment] # pyright: ignore[reportPrivateImportUsage]
