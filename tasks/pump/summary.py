"""Counts of what became of a run's ticks, as a line and as a table."""

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["Summary"]

_KEPT = 10_000  # durations


@dataclass(slots=True)
class Summary:
    """What became of a run's ticks: due = pushed + nothing + missed + failed + lost.

    due        ticks of the run's time
    pushed     ticks whose entries were pushed
    nothing    ticks at which the pump returned no entry: None, or an empty iterable
    reasons    missed ticks by reason: no free thread, a late run, a tick that another run had, a full topic, a long Redis outage, a
               wrong clock, a pump that had failed too often in a row
    failed     ticks at which the pump raised, took too long, or returned what cannot be pushed, or that Redis refuses permanently
    lost       ticks claimed by this run whose claim was taken away before the push, or claimed by an earlier run that died
    failing    number of ticks that had failed in a row when the run ended, if that made the pump rest; else 0
    unattended ticks before the run's first that no run had claimed or counted: none was running, or it died
    seconds    durations of the latest pump calls, in tick order
    delays     seconds from ticks to the starts of the latest pump calls
    skew       seconds by which the clock was ahead of Redis' clock when the run began
    """

    due: int = 0
    pushed: int = 0
    entries: int = 0
    bytes: int = 0
    nothing: int = 0
    failed: int = 0
    lost: int = 0
    failing: int = 0
    unattended: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))
    delays: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))
    skew: float = 0.0

    @property
    def missed(self) -> int:
        """Return how many ticks were missed, for all reasons."""
        return self.reasons.total()

    @property
    def had_nothing(self) -> bool:
        """Return whether the pump worked, but returned no entry at any tick."""
        return self.nothing > 0 and self.pushed == self.failed == 0

    @property
    def totals(self) -> dict[str, int]:
        """The counts that only grow, by name: ticks by outcome, entries and bytes."""
        return {
            "pushed": self.pushed,
            "nothing": self.nothing,
            "missed": self.missed + self.unattended,
            "failed": self.failed,
            "lost": self.lost,
            "entries": self.entries,
            "bytes": self.bytes,
        }

    def __str__(self) -> str:
        why = "".join(f"; {n} {reason}" for reason, n in sorted(self.reasons.items()))
        why += f"; {self.unattended} before its first tick had no run" if self.unattended else ""
        why += f"; at its end {self.failing} had failed in a row" if self.failing else ""
        return (
            f"{self.due} ticks due, {self.pushed} pushed ({self.entries} entries, {self.bytes} bytes), "
            f"{self.nothing} with nothing to push, {self.missed} missed, {self.failed} failed, {self.lost} lost{why}; the pump took {_ms(self.seconds, 0.5)} (p50), {_ms(self.seconds, 0.99)} (p99) "
            f"and began {_ms(self.delays, 0.5)} (p50), {_ms(self.delays, 0.999)} (p99.9) after its tick"
        )

    def markdown(self) -> str:
        """Return the counts as a Markdown table."""
        rows = {
            "ticks due": self.due,
            "pushed": self.pushed,
            "entries": self.entries,
            "bytes": f"{self.bytes:,}",
            "with nothing to push": self.nothing,
            **{f"missed: {reason}": n for reason, n in sorted(self.reasons.items())},
            "failed": self.failed,
            **({"failed in a row at the end": self.failing} if self.failing else {}),  # unknown before the end
            "lost": self.lost,
            "before its first tick, without a run": self.unattended,
            "pump time p50, p99": f"{_ms(self.seconds, 0.5)}, {_ms(self.seconds, 0.99)}",
            "start after the tick p50, p99.9": f"{_ms(self.delays, 0.5)}, {_ms(self.delays, 0.999)}",
            "clock ahead of Redis' by": f"{self.skew:.1f} s",
        }
        return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def _ms(values: Iterable[float], quantile: float) -> str:
    ordered = sorted(values)
    return f"{ordered[int(quantile * (len(ordered) - 1))] * 1000:.0f} ms" if ordered else "0 ms"
