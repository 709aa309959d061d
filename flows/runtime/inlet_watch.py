"""Watches an inlet's run from a thread of its own: ends it once it is no longer wanted, and publishes its report.

A run pumps for many minutes, until the next scheduled run relieves it. The watch notices within seconds that the schedule was
paused, the deployment deleted or deployed again, or the run cancelled.
"""

import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import redis
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.states import Cancelled, Completed

from flows.runtime.poll_turn import PollTurn
from flows.runtime.shared_poll import PAUSED, Seen, SharedPoll
from flows.runtime.successors import Successors
from tasks.base.repeated_warnings import Repeated
from tasks.errors import SluiceError
from tasks.reservoir.connection import connect, in_words, is_outage
from tasks.settings import redis_url

__all__ = ["InletWatch", "why_to_end"]

_LOOK = 2.0  # seconds between two reads from Redis
_UNKNOWN = 30.0  # seconds after which the latest state from Prefect's server is out of date
_LONGEST = 86_400.0  # seconds that a run continues at most without a current state
_MINUTE = 60.0  # seconds between two calls of the minutely work
_END_SECONDS = 4.0  # seconds that the run's end waits for the thread
_CANCELLED, _PAUSED, _CHANGED = "it was cancelled", "its schedule was paused", "its schedule was changed"


def why_to_end(before: Seen | None, now: Seen, run: FlowRun) -> str | None:
    """Return why a run is no longer wanted; None if it still is.

    before   the state before `now`, if any

    A run is no longer wanted if no active schedule has its parameters any more. A run that was started by hand, when no schedule
    had them either, continues.
    """
    if now.state == "CANCELLING":
        return _CANCELLED
    if not now.updated:
        return "its deployment was deleted"
    if now.state == "OVER" and before is not None and before.state != "OVER":
        return "Prefect's server counts it as over"
    if run.parameters in now.scheduled:
        return None
    if run.auto_scheduled or (before is not None and run.parameters in before.scheduled):
        return _CHANGED if now.scheduled else _PAUSED
    return None


class InletWatch:
    """Watches one run of an inlet while in the context of `every_minute`.

    The run's thread calls the public methods. The private ones run in the watch's thread.

    stop    set once the run is no longer wanted
    run     by default the one of the calling thread
    """

    def __init__(self, name: str, *, stop: threading.Event, log: Any, run: FlowRun | None = None) -> None:
        self.why: str | None = None
        """Why the run is no longer wanted."""
        self._name = name
        self._stop = stop
        self._log = log
        self._every_minute: Callable[[], None] = lambda: None
        context = FlowRunContext.get()
        run = run or (context.flow_run if context else None)
        self._run: FlowRun | None = run if run and run.deployment_id else None
        self._began = time.monotonic()
        self._heard = self._began
        self._poll: SharedPoll | None = None
        self._turn: PollTurn | None = None
        self._is_silent = False
        self._warn = Repeated(log)
        self._before: Seen | None = None
        self._base: dict[str, Any] = {}  # the deployment's parameters as this run began
        self._has_warned = False
        self._successors = Successors(name, self._run, log) if self._run else None
        self._closing = threading.Event()
        # With the context of the calling thread: Prefect's settings, the flow run.
        around = contextvars.copy_context()
        self._thread = threading.Thread(target=around.run, args=(self._work,), name=f"watch {name}", daemon=True)

    @contextmanager
    def every_minute(self, do: Callable[[], None]) -> Iterator[None]:
        """Watch the run, and call `do` about once a minute, in the watch's thread."""
        self._every_minute = do
        if self._run is None:  # not a run of a deployment: no schedule to watch
            yield
            return
        self._thread.start()
        try:
            yield
        finally:
            self._closing.set()
            self._thread.join(_END_SECONDS)

    def goes_on(self) -> bool:
        """Return whether the run continues after its window, because no run can relieve it while Prefect's server is silent."""
        now = time.monotonic()
        return self._run is not None and now - self._heard > _UNKNOWN and now - self._began < _LONGEST

    def state(self, message: str) -> State | None:
        """Return the final state of a run that the watch has ended; None for any other, whose state Prefect chooses."""
        if self.why is None:
            return None
        message = f"Ended in good order, as {self.why}. {message}"
        if self.why == _CANCELLED:
            return Cancelled(message=message)
        return Completed(name=PAUSED if self.why == _PAUSED else None, message=message)

    def _work(self) -> None:
        minute = time.monotonic() + _MINUTE
        while not self._closing.wait(_LOOK):
            self._try(self._poll_and_look)
            if time.monotonic() > minute:
                minute = time.monotonic() + _MINUTE
                self._try(self._every_minute)
            self._notice_silence()
        if self._turn:
            self._turn.__exit__()
        if self._poll:
            with suppress(redis.RedisError):
                self._poll.leave()

    def _try(self, do: Callable[[], None]) -> None:
        """Run one part of the watch. A failure is logged, delays no pump and does not end this thread; the part is tried again."""
        try:
            do()
        except (redis.RedisError, SluiceError) as error:
            self._warn_of_refusal(error)
        except Exception as error:  # noqa: BLE001 - must not end this thread
            self._warn(f"{self._name}: the watch beside this run failed", detail=f"{type(error).__name__}: {error}")

    def _poll_and_look(self) -> None:
        self._poll = self._poll or self._registered()
        self._turn = self._turn or PollTurn(self._poll, self._log)
        self._look(self._poll)
        self._turn.step()

    def _registered(self) -> SharedPoll:
        assert self._run is not None
        return SharedPoll(connect(redis_url()), name=str(self._run.id), deployment=str(self._run.deployment_id))

    def _notice_silence(self) -> None:
        was_silent, self._is_silent = self._is_silent, time.monotonic() - self._heard > _UNKNOWN
        if self._is_silent and not was_silent:
            self._log.warning(
                "%s: no news from Prefect's server for %.0f s; this run continues, and does not notice a pause or a new "
                "deployment until the server answers",
                self._name, _UNKNOWN,
            )  # fmt: skip

    def _warn_of_refusal(self, error: redis.RedisError | SluiceError) -> None:
        """Log once why this run cannot poll, unless Redis is only unavailable for a while."""
        if self._has_warned or isinstance(error, SluiceError) or is_outage(error):
            return
        self._has_warned = True
        self._log.warning(
            "%s: this run does not notice a pause of its schedule or a change of its deployment (%s); see docs/redis.md",
            self._name, in_words(error),
        )  # fmt: skip

    def _look(self, poll: SharedPoll) -> None:
        assert self._run is not None
        assert self._successors is not None
        now, redis_time = poll.look()
        if now is None or redis_time - now.at > _UNKNOWN:
            return
        self._heard = time.monotonic()
        before, self._before = self._before, now
        if before is None:
            self._base = now.parameters
        if self._stop.is_set():
            return
        self.why = why_to_end(before, now, self._run)
        if self.why:
            self._log.info("%s: this run ends, as %s", self._name, self.why)
            self._stop.set()
            if self.why == _CHANGED and before:
                self._successors.follow(before, now)
        elif before and now.updated != before.updated:
            self._successors.relieve(before, now, self._base)
