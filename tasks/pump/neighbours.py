"""Finds runs of the same inlet that push to the same topic with other parameters: both push, each at ticks of its own."""

import json
from collections.abc import Mapping
from typing import Any

import redis

from tasks.pump.ticks import BEAT_TTL_MS, Beat, digest, time_of
from tasks.reservoir.keys import beat_key, inlet_of, topic_keys

__all__ = ["Neighbours"]

_LATELY = 5.0  # seconds since its last tick, or two ticks if that is longer, in which a beat counts as running
_CALLED = "called"  # field of a beat's hash


class Neighbours:
    """Other beats of a run's inlet on the same topic.

    Each run announces its pump's arguments in the hash of its beat, as digests, because values may be secret.

    parameters   the pump's arguments
    run          name of the run, for messages
    """

    def __init__(self, client: redis.Redis, beat: Beat, *, parameters: Mapping[str, Any], run: str) -> None:
        self._client: Any = client  # redis-py types replies for all protocols and decodings at once
        self._beat = beat
        self._id = inlet_of(beat.key)
        self._inlet = self._id.rpartition(":")[0]
        self._called = {name: digest(value) for name, value in {**parameters, "every": beat.every}.items()}
        self._run = run
        self._known: set[bytes] = set()

    def announce(self) -> None:
        """Store the name of this run and the digests of its pump's arguments in the beat's hash.

        raises    redis.RedisError
        """
        about = {"run": self._run, "topic": self._beat.topic, "every": self._beat.every, "parameters": self._called}
        text = json.dumps(about)
        with self._client.pipeline() as pipe:
            pipe.hset(self._beat.key, _CALLED, text)
            pipe.pexpire(self._beat.key, BEAT_TTL_MS)
            pipe.execute()

    def found(self, now: float) -> list[str]:
        """Return a sentence for each other beat that is running; none for beats found before.

        now       seconds since the epoch
        raises    redis.RedisError
        """
        prefix = f"inlet:{self._inlet}:".encode()
        declared = self._client.hkeys(topic_keys(self._beat.topic).state)
        others = {name.removeprefix(b"inlet:") for name in declared if name.startswith(prefix)}
        sentences = []
        for other in sorted(others - self._known - {self._id.encode()}):
            last, text = self._client.hmget(beat_key(other.decode()), "last", _CALLED)
            if last is None or text is None:
                continue  # no tick yet, or a run of an older version
            called = json.loads(text)
            if time_of(int(last), called["every"]) < now - max(_LATELY, 2 * called["every"]):
                continue
            self._known.add(other)
            names = sorted(self._called.keys() | called["parameters"].keys())
            differing = [name for name in names if self._called.get(name) != called["parameters"].get(name)]
            sentences.append(
                f"topic {self._beat.topic!r}: run {called['run']!r} of the same inlet, {self._inlet!r}, pumps into it too, with another "
                f"value of {', '.join(differing)}, so that both push; to prevent it, cancel one of the runs, or give it a topic of its own "
                "(parameter `topic`)"
            )
        return sentences
