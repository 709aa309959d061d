"""State that an outlet's run shares with its watch: the current sources, the counts and the latest result."""

from collections.abc import Mapping
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

    followed  the source of each partition that the run reads, by partition; one source under None where topics have none
    share     how many partitions the run is to own, of how many; None where topics have none
    result    the latest result
    """

    def __init__(self, name: str, *, topics: list[str], group: str) -> None:
        self.name = name
        self.topics = topics
        self.group = group
        self.followed: Mapping[int | None, Followed] = {}
        self.share: tuple[int, int] | None = None
        self.result: Any = None
        self._earlier = (0, 0)

    def follow(self, sources: Mapping[int | None, from_redis]) -> None:
        """Watch these sources, which have been started, and count the entries of those that have gone as earlier ones."""
        kept = {each.source: each for each in self.followed.values()}
        for source in kept.keys() - set(sources.values()):
            read, failures = _counts(graph_counts(source))
            self._earlier = self._earlier[0] + read, self._earlier[1] + failures
        self.followed = {n: kept.get(source) or Followed(source, graph_counts(source)) for n, source in sources.items()}

    @property
    def sources(self) -> list[from_redis]:
        """The current sources."""
        return [each.source for each in self.followed.values()]

    @property
    def counts(self) -> tuple[int, int]:
        """Return how many entries all sources have read, and how often a node has failed."""
        read, failures = self._earlier
        for source in self.sources:
            more, failed = _counts(graph_counts(source))
            read, failures = read + more, failures + failed
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


def _counts(graph: GraphCounts) -> tuple[int, int]:
    return graph.received[0], sum(graph.failed)
