"""State that an outlet's run shares with its watch: the current source, the counts and the latest result."""

from dataclasses import dataclass
from typing import Any

from flows.runtime.run_log import take_messages
from tasks.nodes.from_redis import from_redis
from tasks.report.pipeline import GraphCounts, counts_of

__all__ = ["Followed", "WatchedOutlet", "graph_counts"]


@dataclass(frozen=True, slots=True, eq=False)
class Followed:
    """A source that was started, and the counts of its graph at that time."""

    source: from_redis
    began: GraphCounts


class WatchedOutlet:
    """One run of an outlet, as its watch sees it. The run's thread writes, any thread reads.

    followed  the source of the current try; None before the first
    result    the latest result
    """

    def __init__(self, name: str, *, topics: list[str], group: str) -> None:
        self.name = name
        self.topics = topics
        self.group = group
        self.followed: Followed | None = None
        self.result: Any = None
        self._earlier = (0, 0)

    def follow(self, source: from_redis) -> None:
        """Count this source, which has been started, besides the earlier ones."""
        self._earlier = self.counts
        self.followed = Followed(source, graph_counts(source))

    @property
    def source(self) -> from_redis | None:
        """Return the source of the current try."""
        return self.followed.source if self.followed else None

    @property
    def counts(self) -> tuple[int, int]:
        """Return how many entries all sources have read, and how often a node has failed."""
        read, failures = self._earlier
        if self.source:
            graph = graph_counts(self.source)
            read, failures = read + graph.received[0], failures + sum(graph.failed)
        return read, failures

    def sentence(self) -> str:
        """Return the counts so far, and lines that `tasks` has logged since the last call."""
        read, failures = self.counts
        failed = f", {failures:,} failure{'s' * (failures != 1)}" if failures else ""
        parts = [
            f"group {self.group!r} has read {read:,} entries of {', '.join(self.topics)}{failed}",
            *take_messages(),
        ]
        return "; ".join(parts)


def graph_counts(source: from_redis) -> GraphCounts:
    """Return the counts of a source's graph."""
    return counts_of(list(source.latest_run.secured.meters))
