"""What goes on beside an outlet's stream, in a thread of its own: its report, a look at its own state, a watch for stalls.

Nothing here holds up the stream or the end of the run, whatever the Prefect server and Redis do. What fails is tried
again at the next look.
"""

import contextlib
import contextvars
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Self
from uuid import UUID

import redis
from httpx import HTTPError, HTTPStatusError
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import ArtifactCreate
from prefect.context import FlowRunContext
from prefect.events import emit_event
from prefect.exceptions import ObjectNotFound

from flows.runtime.prefect_api import artifact_key, change, impatient_client
from flows.runtime.run_log import told_meanwhile
from tasks.base.plain_text import in_markdown, one_line
from tasks.codec.values import is_pandas
from tasks.group.until import ReplayProgress
from tasks.nodes.from_redis import from_redis
from tasks.nodes.source_run import SourceRun
from tasks.report import pipeline as report
from tasks.reservoir.connection import connect
from tasks.reservoir.levels import Levels
from tasks.settings import redis_url

__all__ = ["Watch", "await_server"]

_LOOK = 2.0  # seconds between two looks at the run's own state
_REPORT = 5.0  # seconds between two reports: each is up to 44 ms of the server's
_WORD = 60.0  # seconds between two lines in the run's log
_FIRST_WORD = 10.0  # seconds after which the first one comes also without a result
_SHOWN_ROWS, _WIDTH, _TEXT = 10, 60, 1_000  # of a result in the log; characters of a cell, and of other text
_AWAITED = 120.0  # seconds the end of the run waits for the Prefect server
_GOING = 4.0  # seconds the end of the run waits for the last report


class Watch:
    """Watches one run of an outlet from aside: use it as a context manager around the stream.

    stop         set once Prefect says that the run is cancelled, or over in any other way
    stall_after  seconds without progress on what is being worked on after which the outlet counts as stalled
    """

    def __init__(
        self, name: str, *, topics: list[str], group: str, stop: threading.Event, stall_after: float, log: Any
    ) -> None:
        self.stalled: list[str] = []
        """The nodes that make no progress, if the outlet is stalled."""
        self.is_cancelled = False
        """Whether it was seen that Prefect wants this run cancelled."""
        self._name = name
        self._topics = topics
        self._group = group
        self._stop = stop
        self._stall_after = stall_after
        self._log = log
        context = FlowRunContext.get()
        self._run: UUID | None = context.flow_run.id if context and context.flow_run else None
        self._key = artifact_key("outlet", name, *([] if group == name else [group]))
        self._source: from_redis | None = None
        self._result: Any = None
        self._said: tuple[int, int] | None = None
        self._said_result: Any = None
        self._next_word = time.monotonic() + _FIRST_WORD
        self._earlier = (0, 0)
        self._closing = threading.Event()
        self._silent: set[str] = set()
        self._progress: object = None
        self._since = time.monotonic()
        self._next_report = 0.0
        self._began: report.Flow | None = None
        self._flow: report.Flow | None = None
        self._redis: redis.Redis | None = None
        self._replay_progress: ReplayProgress | None = None
        self._artifacts: dict[str, tuple[UUID, Any]] = {}
        # As the calling thread sees them: Prefect's settings, the flow run.
        around = contextvars.copy_context()
        self._thread = threading.Thread(target=around.run, args=(self._work,), name=f"watch {name}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join(_GOING)

    def follow(self, source: from_redis) -> None:
        """Watch this source from now on; it has been started."""
        self._earlier = self._counts
        self._source = source
        self._began = self._flow = report.flow_of(list(source.latest_run.secured.meters))

    def show(self, value: Any) -> None:
        """Take a result, to be shown if no other comes before the next report."""
        self._result = value

    def sentence(self) -> str:
        """Return what the run has done so far, in a line, with what is told of it by `tasks` and was not yet."""
        read, failures = self._counts
        failed = f", {failures:,} failure{'s' * (failures != 1)}" if failures else ""
        told = [
            f"group {self._group!r} has read {read:,} entries of {', '.join(self._topics)}{failed}",
            *told_meanwhile(),
        ]
        return "; ".join(told)

    @property
    def _counts(self) -> tuple[int, int]:
        """How many entries were read, and how often a node failed, also by the sources before this one."""
        read, failures = self._earlier
        if self._source:
            flow = report.flow_of(list(self._source.latest_run.secured.meters))
            read, failures = read + flow.received[0], failures + sum(flow.failed)
        return read, failures

    def _work(self) -> None:
        with contextlib.ExitStack() as stack:
            client = None
            if self._run:
                client = stack.enter_context(impatient_client())
            while not self._closing.wait(_LOOK):
                self._look(client)
            self._next_report = 0.0
            self._look(client)
            if self._redis:
                self._redis.close()

    def _look(self, client: SyncPrefectClient | None) -> None:
        self._attempt("watch for stalls", self._watch_for_stalls)
        self._attempt("word in the log", self._speak)
        if not client:
            return
        self._attempt("look", lambda: self._heed(client))
        if time.monotonic() >= self._next_report:
            self._attempt("report", lambda: self._report(client))
            self._next_report = time.monotonic() + _REPORT

    def _attempt(self, what: str, act: Callable[[], None]) -> None:
        """Do what may fail; say so the first time, and when it works again."""
        try:
            act()
        except Exception as error:  # noqa: BLE001 - nothing here may end the stream
            if what not in self._silent:
                is_away = isinstance(error, HTTPError) and not isinstance(error, HTTPStatusError)
                who = "the Prefect server does not answer" if is_away else "it will be tried again"
                self._log.warning(
                    "%s: the %s failed (%s), the stream goes on; %s", self._name, what, type(error).__name__, who,
                    exc_info=None if isinstance(error, HTTPError) else error,
                )  # fmt: skip
            self._silent.add(what)
        else:
            self._silent.discard(what)

    def _heed(self, client: SyncPrefectClient) -> None:
        """Stop when Prefect says that the run is over. What usually does it, a signal, may be lost in an outage."""
        assert self._run
        try:
            state = client.read_flow_run(self._run).state
        except ObjectNotFound:
            state, name = None, "deleted"
        else:
            name = state.name if state else ""
        self.is_cancelled = bool(state and state.is_cancelling())
        if (state is None or state.is_cancelling() or state.is_final()) and not self._stop.is_set():
            # A cancel is no news: the worker's signal is on its way, and the run's last line tells of it.
            level = logging.DEBUG if self.is_cancelled else logging.WARNING
            self._log.log(level, "%s: Prefect says that this run is %s; it stops", self._name, name)
            self._stop.set()

    def _watch_for_stalls(self) -> None:
        if self._source is None:
            return
        reading, now = self._source.latest_run, time.monotonic()
        progress = (id(reading), reading.progress)
        if progress != self._progress or not reading.is_busy:
            if self.stalled:
                self._log.warning("%s: the pipeline goes on", self._name)
            self._progress, self._since, self.stalled = progress, now, []
        elif now - self._since > self._stall_after and not self.stalled:
            self.stalled = reading.secured.busy_nodes or ["unknown"]
            where = ", ".join(self.stalled)
            self._log.error(
                "%s: no progress on %d entries in flight for %.0f s; the pipeline is at %s",
                self._name, reading.in_flight, now - self._since, where,
            )  # fmt: skip
            if self._run:
                emit_event(
                    "sluice.outlet.stalled",
                    resource={
                        "prefect.resource.id": f"sluice.outlet.{self._name}",
                        "prefect.resource.name": self._name,
                    },
                    related=[
                        {
                            "prefect.resource.id": f"prefect.flow-run.{self._run}",
                            "prefect.resource.role": "flow-run",
                        }
                    ],
                    payload={"entries": reading.in_flight, "nodes": self.stalled},
                )

    def _speak(self) -> None:
        """Log what was done and the latest result, once a minute at most; the first time as soon as there is one.

        It is a warning if something failed since the last one.
        """
        result, now = self._result, time.monotonic()
        is_first = self._said is None and (result is not None or self._closing.is_set())
        if self._source is None or (now < self._next_word and not is_first):
            return
        if self._said != (counts := self._counts):
            failed = counts[1] > (self._said[1] if self._said else 0)
            shown = "" if result is self._said_result else f"; the latest result\n{_shown(result)}"
            level, where = (logging.WARNING, self._where_failures_are()) if failed else (logging.INFO, "")
            self._log.log(level, "%s: %s%s%s", self._name, self.sentence(), where, shown)
            self._said, self._said_result, self._next_word = counts, result, now + _WORD

    def _where_failures_are(self) -> str:
        if self._source is None or self._source.on_error == "stop":
            return ""  # what failed stays pending
        return f"; what failed: {', '.join(f'`sluice dead {topic} {self._group}`' for topic in self._topics)}"

    def _report(self, client: SyncPrefectClient) -> None:
        if self._source is None:
            return
        reading = self._source.latest_run
        progress = self._percent(reading) if reading.ends else None
        self._write(client, "markdown", self._key, self._markdown(reading, progress))
        if progress is not None:
            self._write(client, "progress", f"{self._key}-progress", progress)

    def _percent(self, reading: SourceRun) -> float:
        if reading.is_through and self._closing.is_set():
            return 100.0
        if self._replay_progress is None:
            self._replay_progress = ReplayProgress(self._connected(), self._group)
        return round(100 * self._replay_progress.share(reading.ends), 1)

    def _markdown(self, reading: SourceRun, progress: float | None) -> str:
        flow = report.flow_of(list(reading.secured.meters))
        # What is left at the end says how it was on the whole.
        before, self._flow = self._began if self._closing.is_set() else self._flow, flow
        levels_of = Levels(self._connected()).of
        levels = [level for topic in self._topics if (level := levels_of(topic))]
        parts = [f"# {in_markdown(self._name)}"]
        if progress is not None:
            ends = in_markdown(", ".join(f"{topic} {end}" for topic, end in reading.ends.items()))
            parts.append(f"**{progress:g} %** of a replay up to {ends}")
        if self.stalled:
            parts.append(
                f"**Stalled** at {', '.join(map(report.cell, self.stalled))}: no progress on what is in flight."
            )
        parts += [
            report.diagram(flow, before, stalled=self.stalled),
            report.nodes_table(flow),
            f"## What group {in_markdown(self._group)} reads",
            report.topics_table(levels, self._group),
        ]
        if self._result is not None:
            parts += ["## The latest result", report.result_table(self._result)]
        return "\n\n".join(parts)

    def _connected(self) -> redis.Redis:
        if self._redis is None:
            self._redis = connect(redis_url())
        return self._redis

    def _write(self, client: SyncPrefectClient, kind: str, key: str, data: Any) -> None:
        """Create the run's artifact of this kind, or change it if there is something new."""
        written = self._artifacts.get(kind)
        if written and written[1] == data:
            return
        if not (written and change(client, written[0], data)):
            about = "How far a replay is" if kind == "progress" else "The pipeline and what flows through it"
            made = client.create_artifact(
                ArtifactCreate(type=kind, key=key, description=about, data=data, flow_run_id=self._run)
            )
            written = made.id, data
        self._artifacts[kind] = written[0], data


def await_server(log: logging.Logger | logging.LoggerAdapter[Any]) -> bool:
    """Wait until the Prefect server answers, for two minutes at most; return whether it does.

    Prefect 3.9.1 tries for about 70 s to report that a flow has ended, then takes its own failure for the flow's.
    """
    with impatient_client() as client:
        end, told = time.monotonic() + _AWAITED, False
        while client.api_healthcheck() is not None:
            if time.monotonic() > end:
                return False
            if not told:
                log.warning("the Prefect server does not answer; the run's end waits for it, %.0f s at most", _AWAITED)
            told = True
            time.sleep(1)
    return True


def _shown(value: Any) -> str:
    """Return a result as a few lines of text."""
    if is_pandas(value, "DataFrame"):
        return (
            value.head(_SHOWN_ROWS).to_string(max_cols=12, max_colwidth=_WIDTH)
            + f"\n[{len(value)} rows x {len(value.columns)} columns]"
        )
    return one_line(repr(value), _TEXT)
