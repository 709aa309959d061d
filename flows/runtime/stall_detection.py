"""Reports an outlet whose pipeline makes no progress."""

import logging
import time
from operator import itemgetter
from typing import Any
from uuid import UUID

from flows.runtime.alarm_events import emit_alarm
from flows.runtime.watched_outlet import WatchedOutlet
from tasks.nodes.source_run import SourceRun

__all__ = ["StallDetector"]


class StallDetector:
    """Compares the pipeline's progress from look to look. The watch's thread uses it.

    after     seconds without progress on entries in work after which the outlet counts as stalled
    stalled   names of the nodes that make no progress; empty unless the outlet is stalled
    """

    def __init__(
        self,
        outlet: WatchedOutlet,
        run: UUID | None,
        *,
        after: float,
        log: logging.Logger | logging.LoggerAdapter[Any],
    ) -> None:
        self.stalled: list[str] = []
        self._outlet = outlet
        self._run = run
        self._after = after
        self._log = log
        self._seen: dict[SourceRun, tuple[object, float]] = {}

    def check(self) -> None:
        """Log the begin of a stall, with an event, and its end."""
        now, seen = time.monotonic(), self._seen
        self._seen = {}
        for work in [source.latest_run for source in self._outlet.sources]:
            before, since = seen.get(work, (None, now))
            progress = work.progress
            self._seen[work] = progress, since if progress == before and work.is_busy else now
        since, longest = min(
            ((since, work) for work, (_, since) in self._seen.items()), key=itemgetter(0), default=(now, None)
        )
        if longest is None or now - since <= self._after:
            if self.stalled:
                self._log.warning("%s: the pipeline makes progress again", self._outlet.name)
            self.stalled = []
        elif not self.stalled:
            self.stalled = longest.secured.busy_nodes or ["unknown"]
            self._log.error(
                "%s: no progress on %d entries in flight for %.0f s; the pipeline is at %s",
                self._outlet.name, longest.in_flight, now - since, ", ".join(self.stalled),
            )  # fmt: skip
            self._emit(longest)

    def _emit(self, work: SourceRun) -> None:
        if self._run is None:
            return
        name, nodes = self._outlet.name, ", ".join(self.stalled)
        emit_alarm(
            "sluice.outlet.stalled",
            "outlet",
            name,
            related=[{"prefect.resource.id": f"prefect.flow-run.{self._run}", "prefect.resource.role": "flow-run"}],
            payload={
                "message": f"outlet {name!r} makes no progress at {nodes}; entries in flight: {work.in_flight:,}",
                "remedy": f"see why {nodes} takes so long, or cancel the run and start it again",
                "entries": work.in_flight,
                "nodes": self.stalled,
            },
        )
