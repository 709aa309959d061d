"""Sizes of the measurements, and the order in which candidates take turns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

__all__ = ["QUICK", "Sizes", "in_turn"]


@dataclass(frozen=True)
class Sizes:
    """Sizes of the measurements: full, or for a run of two minutes."""

    rounds: int = 3
    entries: int = 60_000
    slow_entries: int = 5_000  # for candidates that take milliseconds per entry
    frames: int = 40
    latency_seconds: float = 8.0
    backlog: int = 1_000_000
    small_frames: int = 10_000
    large_frames: int = 300
    memory_seconds: float = 8.0
    flat_entries: int = 1_000_000
    heavy_entries: int = 200
    changes: int = 80
    growth: int = 10_000
    states: int = 20_000
    keys: int = 100_000
    writes: bool = False  # into the README and docs


QUICK = Sizes(
    rounds=2,
    entries=30_000,
    slow_entries=2_000,
    frames=10,
    latency_seconds=2.0,
    backlog=100_000,
    small_frames=1_000,
    large_frames=60,
    memory_seconds=3.0,
    flat_entries=50_000,
    heavy_entries=60,
    changes=10,
    growth=5_000,
    states=5_000,
)


def in_turn(candidates: Sequence[str], rounds: int, measure: Callable[[str, int], float]) -> dict[str, float]:
    """Return each candidate's median over `rounds` rounds, in which they take turns."""
    found: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(rounds):
        for name in candidates:
            found[name].append(measure(name, turn))
            print(f"  {name}: {found[name][-1]:.4g}", flush=True)
    return {name: median(values) for name, values in found.items()}
