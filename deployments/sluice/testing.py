"""The test kit of `tasks.testing`: the same objects under Sluice's own name."""

from tasks.testing import Bench, Dead, Pushed, drain, entries, fake_redis, frames, pumped, values

__all__ = ["Bench", "Dead", "Pushed", "drain", "entries", "fake_redis", "frames", "pumped", "values"]
