"""The output of `sluice up` while it runs: the newest results, and changes of the runs' states."""

import time
from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, StateType
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from deployments.rollout.runs import of_pool
from deployments.show.tables import entry_table
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
_OVERLAP = timedelta(minutes=1)  # between polls: the server stores a run's end a moment later, by another clock
_QUIET_EVERY = 10.0  # seconds between two tables of one topic if they cannot be drawn in place


class Follower:
    """Shows the newest entries of some topics: in place on a terminal, every few seconds elsewhere.

    outlets   ids of deployments whose state changes are all printed; of other deployments only failures and crashes
    """

    def __init__(
        self,
        console: Console,
        client: SyncPrefectClient,
        reservoir: Reservoir,
        *,
        topics: Iterable[str],
        outlets: Collection[Any],
    ) -> None:
        self._console = console
        self._client = client
        self._reservoir = reservoir
        self._topics = list(topics)
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
            tables: list[RenderableType] = [
                entry_table(topic, entry, width=self._console.width) for topic, entry in newest
            ]
            missing = [topic for topic in self._topics if topic not in dict(newest)]
            if missing:
                tables.append(Text(f"waiting for the first entry in {' and '.join(missing)} ...", style="dim"))
            tables.append(Text("Ctrl-C stops everything that was started here", style="dim"))
            self._live.update(Group(*tables), refresh=True)
            return
        for topic, entry in newest:
            last, at = self._shown.get(topic, ("", 0.0))
            now = time.monotonic()
            entry_id = entry.id
            if entry_id != last and (not last or now - at >= _QUIET_EVERY):
                self._console.print(entry_table(topic, entry, width=self._console.width))
                self._shown[topic] = (entry_id, now)

    def _changed(self) -> list[FlowRun]:
        """Return the runs whose state has changed since the last poll, in the order of the changes."""
        now = datetime.now(UTC)
        # Not all that run, which takes the server 30 ms for fifty.
        found = of_pool(self._client, {StateType.CANCELLING}, or_changed_after=self._polled_at - _OVERLAP)
        self._polled_at = now
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
            (f"{run.state.timestamp.astimezone():%H:%M:%S} ", "dim"),
            (f"{name} ", "bold"),
            (run.state.name or "", _COLOURS.get(run.state_type, "") if run.state_type else ""),
            f" {printable(run.state.message)}" if run.state.message and run.state_type in _BAD else "",
        )
        self._console.print(line, soft_wrap=True)
