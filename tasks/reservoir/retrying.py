"""How many failed calls the runs of each group try again: notes in Redis, so that tables and metrics can show them.

A run renews its notes while it lives. Those of a killed run lapse, and its successor counts for itself.
"""

import re
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import redis

from tasks.reservoir.keys import retrying_key
from tasks.reservoir.lua import load

__all__ = ["RetryingNotes", "retrying_by_group"]

_RETRYING = load(__file__, "retrying")
_LIVE_MS = 30_000
_RENEW = 10.0  # seconds between two notes of an unchanged count
_LEAST = 1.0  # seconds between two notes of a changing one
_NOTE = re.compile(rb"([0-9]{1,9}) ([0-9]{1,15})")


class RetryingNotes:
    """The notes of one consumer. One thread uses it.

    client    of the reservoir
    """

    def __init__(self, client: redis.Redis, group: str, consumer: str) -> None:
        self._note = _RETRYING.on(client)
        self._member = f"{group}:{consumer}"
        self._noted: dict[str, int] = {}
        self._at = float("-inf")

    def update(self, counts: Mapping[str, int]) -> None:
        """Note how many calls are tried again, by topic, if that has changed or the notes are about to lapse.

        A server that refuses writes for now gets the next note.

        raises    redis.RedisError: it does not answer
        """
        if not counts and not self._noted:
            return
        age = time.monotonic() - self._at
        if age < (_RENEW if counts == self._noted else _LEAST if counts else 0.0):
            return
        self._at = time.monotonic()
        for topic in [*counts, *(topic for topic in self._noted if topic not in counts)]:
            self._write(topic, counts.get(topic, 0))
        self._noted = dict(counts)

    def _write(self, topic: str, count: int) -> None:
        # A full server, or a key of another program, must not hold up the stream.
        with suppress(redis.ResponseError):
            self._note(retrying=retrying_key(topic), member=self._member, count=count, live_ms=_LIVE_MS)


def retrying_by_group(notes: Any, now_ms: int) -> dict[str, int]:
    """Return how many calls are tried again, by group, of the fields of `retrying_key`.

    now_ms    by Redis' clock
    """
    found: dict[str, int] = {}
    for member, note in notes.items() if isinstance(notes, dict) else ():
        group, _, _ = member.decode(errors="replace").partition(":")
        if (parts := _NOTE.fullmatch(note)) and int(parts[2]) > now_ms:
            found[group] = found.get(group, 0) + int(parts[1])
    return found
