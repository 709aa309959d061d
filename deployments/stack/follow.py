"""The output of `sluice up` while it runs: addresses, state, changes of the runs' states, and the newest results."""

import time
from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, StateType
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.rule import Rule
from rich.segment import Segment
from rich.text import Text

from deployments.rollout.runs import of_pool
from deployments.show.tables import entry_table
from deployments.show.times import clock
from tasks.base.plain_text import printable
from tasks.reservoir import Reservoir

__all__ = ["Follower"]

_BAD = frozenset({StateType.FAILED, StateType.CRASHED})
_COLOURS = {
    StateType.RUNNING: "green",
    StateType.FAILED: "red",
    StateType.CRASHED: "red",
    StateType.CANCELLED: "yellow",
}
_POLL_SECONDS = 2.0  # between two requests for changed runs
_COUNT_SECONDS = 60.0  # between two counts of all running runs, which take the server 30 ms for fifty
_OVERLAP = timedelta(minutes=1)  # between polls: the server stores a run's end a moment later, by another clock
_QUIET_EVERY = 10.0  # seconds between two tables of one topic if they cannot be drawn in place
_NEWS = 6  # rows for the latest changes


class Follower:
    """Shows changes of the runs' states and, apart from them, the newest entries of some topics.

    Each change is a line. On a terminal, addresses, state and results are drawn in place below the latest changes; a low terminal
    cuts off the end of the results. Without a terminal, results are printed every few seconds.

    addresses   lines that stay in view
    quiet       show no results
    outlets   ids of deployments whose state changes are all printed; of other deployments only failures and crashes
    """

    def __init__(
        self,
        console: Console,
        client: SyncPrefectClient,
        reservoir: Reservoir,
        *,
        topics: Iterable[str],
        addresses: Iterable[str] = (),
        quiet: bool = False,
        outlets: Collection[Any],
    ) -> None:
        self._console = console
        self._client = client
        self._reservoir = reservoir
        self._topics = [] if quiet else list(topics)
        self._addresses = list(addresses)
        self._running: set[Any] = set()
        self._next_count = 0.0
        self._bad = 0
        self._outlets = outlets
        self._reported: dict[Any, Any] = {}
        self._since = self._polled_at = datetime.now(UTC)
        self._next_poll = 0.0
        self._shown: dict[str, tuple[str, float]] = {}
        self._names: dict[Any, str] = {}
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.freeze()

    def freeze(self) -> None:
        """Stop drawing in place, so that lines can follow."""
        if self._live:
            self._live.stop()
            self._live = None

    def step(self) -> None:
        """Print a line for each state change of a run, at most every two seconds, and draw the newest results."""
        if time.monotonic() >= self._next_poll:
            self._next_poll = time.monotonic() + _POLL_SECONDS
            for run in self._changed():
                self._report(run)
        newest = [(topic, found[-1]) for topic in self._topics if (found := self._reservoir.peek(topic, 1))]
        if self._live:
            tables: list[RenderableType] = [*self._state()]
            if newest:
                tables.append(Rule("results", style="dim"))
            tables += [entry_table(topic, entry, width=self._console.width) for topic, entry in newest]
            missing = [topic for topic in self._topics if topic not in dict(newest)]
            if missing:
                tables.append(Text(f"waiting for the first entry in {' and '.join(missing)} ...", style="dim"))
            self._live.update(_Cropped(Group(*tables), rows=max(1, self._console.height - _NEWS)), refresh=True)
            return
        for topic, entry in newest:
            last, at = self._shown.get(topic, ("", 0.0))
            now = time.monotonic()
            entry_id = entry.id
            if entry_id != last and (not last or now - at >= _QUIET_EVERY):
                self._console.print(entry_table(topic, entry, width=self._console.width))
                self._shown[topic] = (entry_id, now)

    def _state(self) -> Iterator[Text]:
        """Yield the lines above the results."""
        for line in self._addresses:
            yield Text(line, overflow="fold")
        running = len(self._running)
        failed = f", {self._bad} failed or crashed since the start" if self._bad else ""
        yield Text(
            f"{running} run{'s' * (running != 1)}{failed}; Ctrl-C stops everything that was started here",
            style="red" if self._bad else "green",
            overflow="fold",
        )

    def _changed(self) -> list[FlowRun]:
        """Return the runs whose state has changed since the last poll, in the order of the changes."""
        now = datetime.now(UTC)
        # Not all that run, which takes the server 30 ms for fifty.
        found = of_pool(self._client, {StateType.CANCELLING}, or_changed_after=self._polled_at - _OVERLAP)
        self._polled_at = now
        if time.monotonic() >= self._next_count:
            self._next_count = time.monotonic() + _COUNT_SECONDS
            self._running = {run.id for run in of_pool(self._client, {StateType.RUNNING})}
        for run in found:
            (self._running.add if run.state_type == StateType.RUNNING else self._running.discard)(run.id)
        states = {run.id: run.state for run in found if run.state and run.state.timestamp >= self._since}
        changed = [run for run in found if run.id in states and self._reported.get(run.id) != states[run.id].id]
        self._reported = {run: state.id for run, state in states.items()}
        return sorted(changed, key=lambda run: states[run.id].timestamp)

    def _report(self, run: FlowRun) -> None:
        if run.state is None or not (run.deployment_id in self._outlets or run.state_type in _BAD):
            return
        name = self._names.get(run.flow_id) or self._names.setdefault(
            run.flow_id, self._client.read_flow(run.flow_id).name
        )
        line = Text.assemble(
            (f"{clock(run.state.timestamp)} ", "dim"),
            (f"{name} ", "bold"),
            (run.state.name or "", _COLOURS.get(run.state_type, "") if run.state_type else ""),
            f" {printable(run.state.message)}" if run.state.message and run.state_type in _BAD else "",
        )
        self._bad += run.state_type in _BAD
        self._console.print(line, soft_wrap=True)


class _Cropped:
    """The first rows of a drawing, so that the others do not push the latest changes out of view."""

    def __init__(self, drawn: RenderableType, *, rows: int) -> None:
        self._drawn = drawn
        self._rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._drawn, options.update(height=None), pad=False)[: self._rows]
        for number, line in enumerate(lines):
            if number:
                yield Segment.line()
            yield from line
