"""A test kit for pipelines and pumps, without a server."""

from tasks.testing.bench import Bench, Dead, Pushed, drain, entries, fake_redis, frames, pumped, values

__all__ = ["Bench", "Dead", "Pushed", "drain", "entries", "fake_redis", "frames", "pumped", "values"]
