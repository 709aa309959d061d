"""Publishes the report of an outlet's run as artifacts in Prefect: its pipeline, its topics, its latest result, its progress."""

import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import ArtifactCreate

from flows.runtime.group_lag import GroupLag
from flows.runtime.outlet_alarms import OutletAlarms
from flows.runtime.prefect_api import artifact_key, change
from flows.runtime.stall_detection import StallDetector
from flows.runtime.watched_outlet import Followed, WatchedOutlet, graph_counts
from tasks.base.plain_text import in_markdown
from tasks.report import pipeline
from tasks.report.alarms import alarms_shown

__all__ = ["OutletReport"]


_SOON, _LATER = 5.0, 30.0  # seconds between two reports: each takes up to 44 ms of the server's time
_UNCHANGED = 290.0  # seconds after which a report is written again though only its time has changed
_NEW = 60.0  # seconds after the start in which a reader waits for the next report


class OutletReport:
    """The artifacts of one run: a report, and for a replay its progress. The watch's thread uses it."""

    def __init__(
        self, outlet: WatchedOutlet, run: UUID | None, stalls: StallDetector, lag: GroupLag, alarms: OutletAlarms
    ) -> None:
        self._outlet = outlet
        self._run = run
        self._stalls = stalls
        self._lag = lag
        self._alarms = alarms
        self._key = artifact_key("outlet", outlet.name, *([] if outlet.group == outlet.name else [outlet.group]))
        self._followed: list[Followed] = []
        self._previous: pipeline.GraphCounts | None = None
        self._artifacts: dict[str, UUID] = {}
        self._written: dict[str, tuple[Any, float]] = {}
        self._began = time.monotonic()
        self._published_at = float("-inf")
        self._trouble: tuple[int, bool, int, int] = (0, False, 0, 0)

    def publish_if_due(self, client: SyncPrefectClient, *, is_last: bool) -> None:
        """Create or change the artifacts if this is due. The last report shows the rates of the whole run, others current ones.

        It is due after five seconds if the run is new, is a replay, has failures, alarms or calls tried again that the last report
        does not show, or stalls or no longer does; otherwise after half a minute.
        """
        if not (followed := list(self._outlet.followed.values())):
            return
        runs = [each.source.latest_run for each in followed]
        ends = {topic: end for run in runs for topic, end in run.ends.items()}
        retried = sum(len(run.retried) for run in runs)
        trouble = self._outlet.counts[1], bool(self._stalls.stalled), len(self._alarms.current), retried
        is_soon = trouble != self._trouble or time.monotonic() - self._began < _NEW or ends
        if not is_last and time.monotonic() - self._published_at < (_SOON if is_soon else _LATER):
            return
        self._published_at = time.monotonic()
        percent = self._lag.percent(ends, is_through=is_last and all(run.is_through for run in runs))
        body = self._markdown(followed, ends, percent, is_last=is_last)
        self._write(client, "markdown", self._key, body, data=f"{self._head()}\n\n{body}")
        if percent is not None:
            self._write(client, "progress", f"{self._key}-progress", percent, data=percent)
        self._trouble = trouble

    def _head(self) -> str:
        outlet = self._outlet
        topics = ", ".join(map(in_markdown, outlet.topics))
        return f"# {in_markdown(outlet.name)}\n\nGroup {in_markdown(outlet.group)} of {topics}. {pipeline.as_of(datetime.now(UTC))}"

    def _markdown(
        self, followed: list[Followed], end_ids: dict[str, str], percent: float | None, *, is_last: bool
    ) -> str:
        outlet, stalled = self._outlet, self._stalls.stalled
        counts = pipeline.total([graph_counts(each.source) for each in followed])
        began = pipeline.total([each.began for each in followed])
        before = self._previous if followed == self._followed and not is_last else began
        self._followed, self._previous = followed, counts
        levels = self._lag.levels()
        parts = [pipeline.position(levels, outlet.group)]
        if percent is not None:
            parts.append(f"**{percent:g} %** of a replay up to {pipeline.replay_ends(end_ids)}")
        if stalled:
            nodes = ", ".join(map(pipeline.cell, stalled))
            parts.append(f"**Stalled** at {nodes}: no progress on entries in flight.")
        if self._alarms.current:
            parts.append(alarms_shown(self._alarms.current))
        if retried := [one for each in followed for one in each.source.latest_run.retried]:
            parts.append(pipeline.retried_table(retried, time.time()))
        if outlet.result is not None:
            parts += ["## The latest result", pipeline.result_table(outlet.result)]
        parts += [
            "## Pipeline",
            pipeline.diagram(counts, before, stalled=stalled, retried=retried),
            pipeline.nodes_table(counts),
            f"## Topics of group {in_markdown(outlet.group)}",
            pipeline.topics_table(levels, outlet.group),
        ]
        if outlet.share:
            parts += ["## Partitions", _partitions(outlet, *outlet.share)]
        if memory := _memory(followed):
            parts += ["## Kept state", pipeline.memory_table(memory)]
        return "\n\n".join(parts)

    def _write(self, client: SyncPrefectClient, kind: str, key: str, content: Any, *, data: Any) -> None:
        """Create the run's artifact of this kind, or change it if its content has changed or is some minutes old."""
        now = time.monotonic()
        known, at = self._written.get(kind, (None, float("-inf")))
        if known == content and now - at < _UNCHANGED:
            return
        artifact = self._artifacts.get(kind)
        if artifact is None or not change(client, artifact, data):
            description = "Progress of a replay" if kind == "progress" else "The pipeline and its rates"
            created = client.create_artifact(
                ArtifactCreate(type=kind, key=key, description=description, data=data, flow_run_id=self._run)
            )
            self._artifacts[kind] = created.id
        self._written[kind] = content, now


def _partitions(outlet: WatchedOutlet, share: int, count: int) -> str:
    owned = [str(n) for n, each in outlet.followed.items() if each.source.latest_run.is_owner]
    return f"This run reads {', '.join(owned) or 'none'} of {count} partitions. Its share is {share}; the other runs of the group read the rest."


def _memory(followed: list[Followed]) -> list[tuple[str, int, int]]:
    """Return name, number of fields and bytes of each node's kept state, of all partitions together."""
    sums: dict[str, tuple[int, int]] = {}
    for each in followed:
        for name, fields, size in each.source.latest_run.memory:
            before = sums.get(name, (0, 0))
            sums[name] = before[0] + fields, before[1] + size
    return [(name, fields, size) for name, (fields, size) in sums.items()]
