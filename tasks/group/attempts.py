"""Failed attempts on pending entries, counted in Redis beside the results of each entry, so that a restart goes on counting.

A call has a name that is the same in every life of a pipeline. Its count is a field of the record that holds the results of
the entry, too, and goes with the acknowledgement or the dead letter of the entry.
"""

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import redis

from tasks.base.backoff import Backoff
from tasks.base.logs import get_logger
from tasks.base.repeated_warnings import Repeated
from tasks.reservoir.connection import is_outage
from tasks.reservoir.fence import Fence
from tasks.reservoir.keys import result_record
from tasks.reservoir.lua import load
from tasks.reservoir.results import RESULT_TTL_MS

__all__ = ["Attempts", "Failures", "Postponed"]

logger = get_logger(__name__)

_NOTE_FAILURE = load(__file__, "note_failure")
_PREFIX = b"tries:"
_LONGEST_PAUSE = 5.0

Origin = tuple[str, str]
"""The topic and the id that an entry was read under."""


class Postponed(Exception):  # noqa: N818 - no error: the next run makes the call
    """The run is to end, or the consumer was taken for dead: the entry stays pending for the next one."""


class Failures(NamedTuple):
    """How often a call has failed, and its last error as text."""

    times: int
    last: str = ""


class Attempts:
    """The failed attempts on the entries that one consumer holds. The graph's thread uses it.

    All coroutines wait while Redis does not answer, and raise Postponed.

    client         returns a client of the reservoir, another one than the consumer's own
    fence          of the consumer: once it was taken for dead, it notes nothing
    forgets_last   whether the last failure is forgotten, because the entry stays pending until the pipeline is corrected
    """

    def __init__(self, client: Callable[[], redis.Redis], fence: Fence, *, forgets_last: bool) -> None:
        self._client = client
        self._fence = fence
        self.forgets_last = forgets_last
        self._is_ending = False
        self._pauses: set[asyncio.Future[None]] = set()
        self.unknown: set[Origin] = set()
        """Entries of an earlier life, whose failures were not looked up yet. Any thread may add to it."""
        self._known: dict[Origin, dict[bytes, Failures]] = {}
        self._warn = Repeated(logger)

    def concern(self, topic: str, id: str) -> bool:  # noqa: A002 - the field's own name
        """Return whether calls on an entry may have failed in an earlier life."""
        return (bool(self.unknown) and (topic, id) in self.unknown) or (
            bool(self._known) and (topic, id) in self._known
        )

    async def failures(self, topic: str, id: str, name: bytes) -> Failures:  # noqa: A002 - the field's own name
        """Return how often a call on an entry has failed in earlier lives."""
        if (topic, id) in self.unknown:
            if found := await self._answered(lambda: self._stored(topic, id)):
                self._known[topic, id] = found
            self.unknown.discard((topic, id))
        return self._known.get((topic, id), {}).get(name, Failures(0))

    async def note(self, topic: str, id: str, name: bytes, failures: Failures) -> None:  # noqa: A002 - the field's own name
        """Store how often a call on an entry has failed; forget it with 0 times."""
        if (known := self._known.get((topic, id))) is not None:
            known[name] = failures
        script = _NOTE_FAILURE.on(self._client())
        answer = await self._answered(
            lambda: script(
                lease=self._fence.lease,
                record=result_record(self._fence.group, topic, id),
                token=self._fence.token,
                field=_PREFIX + name,
                text=f"{failures.times} {failures.last}".encode(errors="backslashreplace") if failures.times else b"",
                ttl_ms=RESULT_TTL_MS,
            )
        )
        if answer == -1:
            raise Postponed

    async def pause(self, seconds: float) -> None:
        """Wait for some seconds, or until the run is to end."""
        loop = asyncio.get_running_loop()
        # A plain future: wait_for would await something when a loop that is closed drops it.
        pause = loop.create_future()
        timer = loop.call_later(seconds, _finish, pause)
        self._pauses.add(pause)
        try:
            if not self._is_ending:
                await pause
        finally:
            timer.cancel()
            self._pauses.discard(pause)
        if self._is_ending:
            raise Postponed

    def end_pauses(self) -> None:
        """End all pauses, because the run is to end."""
        self._is_ending = True
        for pause in self._pauses:
            _finish(pause)

    def _stored(self, topic: str, id_: str) -> dict[bytes, Failures]:
        record: dict[bytes, bytes] = dict(
            self._client().hscan_iter(result_record(self._fence.group, topic, id_), match=_PREFIX + b"*", count=1000)
        )
        return {name.removeprefix(_PREFIX): _parsed(text) for name, text in record.items()}

    async def _answered(self, command: Callable[[], Any]) -> Any:
        """Return the answer to a command; None if Redis refuses it, so that the count lasts as long as this run only."""
        backoff = Backoff(first=0.1, longest=_LONGEST_PAUSE)
        while True:
            try:
                return command()
            except redis.RedisError as error:
                if not is_outage(error):
                    self._warn(
                        f"group {self._fence.group!r}: Redis keeps no count of failed attempts, which a restart begins anew",
                        detail=type(error).__name__,
                    )
                    return None
            await self.pause(backoff.next())


def _finish(pause: asyncio.Future[None]) -> None:
    if not pause.done():
        pause.set_result(None)


def _parsed(text: bytes) -> Failures:
    count, _, last = text.decode(errors="replace").partition(" ")
    return Failures(int(count) if count.isdecimal() else 0, last)
