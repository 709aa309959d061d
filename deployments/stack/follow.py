"""What `sluice up` shows while it runs: the newest results, and what happens to the runs."""

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
_GOING = frozenset({StateType.RUNNING, StateType.CANCELLING})
_OVERLAP = timedelta(minutes=1)  # of two looks: a run's end is known a moment later, by another clock
_QUIET_EVERY = 10.0  # seconds between two tables of one topic where they cannot be drawn in place


class Follower:
    """Draws the newest entry of some topics, in place on a terminal, now and then elsewhere.

    outlets   ids of the deployments whose every change of state is told; of others only what went wrong
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
        self._told: dict[Any, Any] = {}
        self._since = self._looked = datetime.now(UTC)
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
        """Stop drawing in place; lines may follow."""
        if self._live:
            self._live.stop()
            self._live = None

    def step(self) -> None:
        """Look once: print a line for each change of a run's state, and draw the newest results."""
        for run in self._changed():
            self._tell(run)
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
        """Return the runs whose state is another than at the last look, in the order of the changes."""
        now = datetime.now(UTC)
        found = of_pool(self._client, _GOING, or_ended_after=self._looked - _OVERLAP)
        self._looked = now
        states = {run.id: run.state for run in found if run.state and run.state.timestamp >= self._since}
        changed = [run for run in found if run.id in states and self._told.get(run.id) != states[run.id].id]
        self._told = {run: state.id for run, state in states.items()}
        return sorted(changed, key=lambda run: states[run.id].timestamp)

    def _tell(self, run: FlowRun) -> None:
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
