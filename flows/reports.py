"""What a run leaves behind in the UI: one Markdown artifact, from a thread that can harm nobody."""

import contextvars
import logging
import threading

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.context import FlowRunContext

__all__ = ["publish"]

logger = logging.getLogger(__name__)


def publish(markdown: str, *, key: str, description: str, patience: float = 5.0) -> None:
    """Leave an artifact with this run; none outside a flow run, or if the server does not answer in `patience` seconds.

    A run leaves one, which Prefect's `db_vacuum` removes together with the run.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    artifact = ArtifactCreate(
        key=key, type="markdown", description=description, data=markdown, flow_run_id=context.flow_run.id
    )

    def create() -> None:
        try:
            # Prefect's create_markdown_artifact leaves its connection open (3.8.8).
            with get_client(sync_client=True) as client:
                client.create_artifact(artifact)
        except Exception as error:  # noqa: BLE001 - a report is worth no run
            logger.info("no artifact %r: %s", key, type(error).__name__)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(create,), name="report", daemon=True)
    thread.start()
    thread.join(patience)
