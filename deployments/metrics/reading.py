"""Reads everything that the metrics show from Redis, in a few round trips."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import redis

from tasks.pump.counts import InletCounts, beats, counts_of
from tasks.reservoir import Reservoir
from tasks.reservoir.folding import fold
from tasks.reservoir.keys import derived_from
from tasks.reservoir.levels import Levels, TopicLevel

__all__ = ["Reader", "Reading"]

_NAMES_SECONDS = (
    60.0  # for which the names of topics and inlets are used: to find them, Redis walks through all its keys
)
_SHARED_SECONDS = 1.0  # for which one reading answers all scrapes


@dataclass(frozen=True, slots=True)
class Reading:
    """Levels of topics and counts of inlets at one moment.

    error     the type of the error if Redis did not answer, else ''
    seconds   that the reading took
    """

    topics: tuple[TopicLevel, ...] = ()
    inlets: tuple[InletCounts, ...] = ()
    error: str = ""
    seconds: float = 0.0


class Reader:
    """Reads levels and counts. Any thread may call it; one reading serves all calls of the same second.

    connect   returns a client, once Redis answers
    """

    def __init__(self, connect: Callable[[], redis.Redis], *, timer: Callable[[], float] = time.monotonic) -> None:
        self._connect = connect
        self._timer = timer
        self._lock = threading.Lock()
        self._client: redis.Redis | None = None
        self._names: tuple[list[str], list[str]] = ([], [])
        self._named_at = -_NAMES_SECONDS
        self._latest = Reading()
        self._read_at = -_SHARED_SECONDS

    def read(self) -> Reading:
        """Return a current reading. Without Redis, it has no topics and no inlets."""
        with self._lock:
            began = self._timer()
            if began - self._read_at >= _SHARED_SECONDS:
                try:
                    topics, inlets = self._read(began)
                    self._latest = Reading(topics, inlets, seconds=self._timer() - began)
                except Exception as error:  # noqa: BLE001 - each error means the same for who scrapes: no reading
                    self._latest = Reading(error=type(error).__name__, seconds=self._timer() - began)
                self._read_at = self._timer()
            return self._latest

    def _read(self, now: float) -> tuple[tuple[TopicLevel, ...], tuple[InletCounts, ...]]:
        if self._client is None:
            self._client = self._connect()
        if now - self._named_at >= _NAMES_SECONDS:
            topics = [topic for topic in Reservoir(self._client).streams() if not derived_from(topic)]
            self._names = topics, beats(self._client)
            self._named_at = now
        topics, keys = self._names
        return tuple(fold(self._client, Levels(self._client).of_all(topics))), tuple(counts_of(self._client, keys))
