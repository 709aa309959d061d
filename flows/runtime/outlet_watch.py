"""Watches an outlet's run from a thread of its own: its state in Prefect, its log, its report, and stalls.

Nothing here delays the stream or the end of the run, whatever Prefect's server and Redis do. A part that fails is tried again at
the next look.
"""

import contextlib
import contextvars
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, Self
from uuid import UUID

from httpx import HTTPError, HTTPStatusError
from prefect.client.orchestration import SyncPrefectClient
from prefect.context import FlowRunContext

from flows.runtime.group_lag import GroupLag
from flows.runtime.outlet_alarms import OutletAlarms
from flows.runtime.outlet_log import OutletLog
from flows.runtime.outlet_report import OutletReport
from flows.runtime.own_state import OwnState
from flows.runtime.prefect_api import impatient_client
from flows.runtime.result_topic import ResultTopic
from flows.runtime.stall_detection import StallDetector
from flows.runtime.watched_outlet import WatchedOutlet
from tasks.nodes.from_redis import from_redis

__all__ = ["OutletWatch"]

_LOOK_SECONDS = 2.0  # between two looks
_LAST_LOOK_SECONDS = 4.0  # that the end of the run waits for the last look

Log = logging.Logger | logging.LoggerAdapter[Any]


class OutletWatch:
    """Watches one run of an outlet; a context manager around its stream.

    The run's thread calls the public methods. The private ones, and all parts, run in the watch's thread.

    results      where the results go; its limits are declared again each minute
    stop         set once Prefect counts the run as cancelled, or as over for another reason
    stall_after  seconds without progress on entries in work after which the outlet counts as stalled
    """

    def __init__(
        self,
        name: str,
        *,
        topics: list[str],
        group: str,
        results: ResultTopic,
        stop: threading.Event,
        stall_after: float,
        log: Log,
    ) -> None:
        context = FlowRunContext.get()
        run: UUID | None = context.flow_run.id if context and context.flow_run else None
        self._outlet = WatchedOutlet(name, topics=topics, group=group)
        self._has_run = run is not None
        self._log = log
        self._results = results
        self._own_state = OwnState(name, run, stop, log)
        self._stalls = StallDetector(self._outlet, run, after=stall_after, log=log)
        self._lines = OutletLog(self._outlet, log)
        self._lag = GroupLag(topics, group)
        self._alarms = OutletAlarms(self._outlet, self._lag, log)
        self._report = OutletReport(self._outlet, run, self._stalls, self._lag, self._alarms)
        self._failing: set[str] = set()
        self._closing = threading.Event()
        # With the context of the calling thread: Prefect's settings, the flow run.
        around = contextvars.copy_context()
        self._thread = threading.Thread(target=around.run, args=(self._work,), name=f"watch {name}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join(_LAST_LOOK_SECONDS)

    def follow(self, sources: Mapping[int | None, from_redis], *, share: tuple[int, int] | None = None) -> None:
        """Watch these sources, which have been started, from now on; see `WatchedOutlet`."""
        self._outlet.follow(sources)
        self._outlet.share = share

    @property
    def has_read(self) -> bool:
        """Return whether the outlet has read any entry."""
        return self._outlet.counts[0] > 0

    def show(self, result: Any) -> None:
        """Take a result, which the next report and log line show unless another one follows."""
        self._outlet.result = result

    def sentence(self) -> str:
        """Return the run's counts so far, and lines that `tasks` has logged since the last call."""
        return self._outlet.sentence()

    @property
    def is_cancelled(self) -> bool:
        """Return whether Prefect was seen to want this run cancelled."""
        return self._own_state.is_cancelled

    def _work(self) -> None:
        with contextlib.ExitStack() as stack:
            client = stack.enter_context(impatient_client()) if self._has_run else None
            stack.enter_context(self._own_state)
            stack.callback(self._lag.close)
            stack.callback(self._results.close)
            while not self._closing.wait(_LOOK_SECONDS):
                self._look(client, is_last=False)
            self._look(client, is_last=True)

    def _look(self, client: SyncPrefectClient | None, *, is_last: bool) -> None:
        self._attempt("watch for stalls", self._stalls.check)
        self._attempt("look for alarms", self._alarms.check)
        self._attempt("line in the log", lambda: self._lines.write(is_last=is_last))
        if self._outlet.followed and not is_last:
            self._attempt("declaration of its results' limits", self._results.renew)
        if client is None:
            return
        self._attempt("look at its own state", lambda: self._own_state.check(client))
        self._attempt("report", lambda: self._report.publish_if_due(client, is_last=is_last))

    def _attempt(self, what: str, act: Callable[[], None]) -> None:
        """Run one part; log its first failure in a row."""
        try:
            act()
        except Exception as error:  # noqa: BLE001 - nothing here may end the stream
            if what not in self._failing:
                is_away = isinstance(error, HTTPError) and not isinstance(error, HTTPStatusError)
                why = "the Prefect server does not answer" if is_away else "it will be tried again"
                self._log.warning(
                    "%s: the %s failed (%s), the stream continues; %s", self._outlet.name, what, type(error).__name__, why,
                    exc_info=None if isinstance(error, HTTPError) else error,
                )  # fmt: skip
            self._failing.add(what)
        else:
            self._failing.discard(what)
