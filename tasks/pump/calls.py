"""Calls a pump: in threads or in the run's own, with a timeout, and encodes its entries."""

import contextvars
import functools
import threading
from collections.abc import Callable
from typing import Any

from tasks.base.loop_thread import OwnLoop
from tasks.checks import check_number
from tasks.errors import SettingsError
from tasks.pump.handover import Handover, Job
from tasks.pump.remembering import Remembering
from tasks.pump.returned import Encode, as_entries

__all__ = ["Calls", "check_threads"]


def check_threads(threads: int, timeout: float | None) -> None:
    """Refuse a number of threads that is none, and a timeout that no thread of its own makes possible."""
    check_number(threads, least=0, name="threads")
    if timeout is not None and not threads:
        msg = "timeout: a pump in the run's own thread cannot be left behind; set threads to 1 or more"
        raise SettingsError(msg)


class Calls:
    """The calls of one run's pump. The run's thread calls the public methods; each call ends its job in the hand-over.

    pump      called with `arguments` only; async calls are awaited in one loop, which lasts as long as the run
    threads   number of calls at once; 0: one, in the run's own thread
    timeout   seconds after which a call counts as failed: an async one is cancelled, another one's thread left behind
    encode    encodes entries for the push
    keeps     whether jobs keep the entries besides their encoded form
    remembering  gives each call its cursor; None for a pump that remembers nothing. Then it calls the pump
    arguments    returns further arguments of the pump for a job
    """

    def __init__(
        self,
        pump: Callable[[], Any],
        handover: Handover,
        *,
        name: str,
        threads: int,
        timeout: float | None,
        timer: Callable[[], float],
        encode: Encode,
        keeps: bool,
        remembering: Remembering | None = None,
        arguments: Callable[[Job], dict[str, Any]] = lambda _: {},
    ) -> None:
        check_threads(threads, timeout)
        self.at_once = max(1, threads)
        self._pump = pump
        self._handover = handover
        self._name = name
        self._threads = threads
        self._timeout = timeout
        self._timer = timer
        self._encode = encode
        self._keeps = keeps
        self._remembering = remembering
        self._arguments = arguments
        self._loop = OwnLoop()
        self._lock = threading.Lock()
        self._running: set[Job] = set()  # including jobs whose claim has failed since

    def __len__(self) -> int:
        """Return the number of calls that are running and have not timed out."""
        with self._lock:
            return len(self._running)

    def start(self, job: Job) -> None:
        """Call the pump for a job; with threads, return at once."""
        with self._lock:
            self._running.add(job)
        if self._threads:
            # Prefect keeps the run's logger in the context.
            run = contextvars.copy_context().run
            threading.Thread(target=run, args=(self._call, job), name=f"{self._name}-{job.tick}", daemon=True).start()
        else:
            self._call(job)

    def give_up_on_the_slow(self) -> None:
        """End the jobs whose calls have exceeded the timeout."""
        if self._timeout is None:
            return
        now = self._timer()
        with self._lock:
            running = list(self._running)
        for job in running:
            if job.began is not None and now - job.began > self._timeout:
                self._end(job, error=TimeoutError(f"it took longer than {self._timeout:g} s"))

    def close(self) -> None:
        """Cancel async calls, and end their loop."""
        self._loop.close()

    def _call(self, job: Job) -> None:
        """Call the pump and end the job. In a thread of the call's own, or with threads=0 in the run's."""
        entries, encoded, after, error = None, [], None, None
        try:
            if self._remembering is None:
                call = functools.partial(self._pump, **self._arguments(job))
                entries = as_entries(self._loop.call(call, timeout=self._timeout), name=self._name)
                encoded = self._encode(entries)
            else:
                assert job.before is not None  # a job with a cursor begins once it was read
                memory = job.before.memory
                cursor = self._remembering.cursor(memory)
                call = functools.partial(self._remembering.call, cursor, **self._arguments(job))
                entries = as_entries(self._loop.call(call, timeout=self._timeout), name=self._name)
                encoded, after = self._remembering.after(memory, cursor, self._encode(entries))
        except BaseException as raised:  # noqa: BLE001 - a pump may raise anything; SystemExit would end its thread only
            error = raised
        self._end(job, value=entries if self._keeps else None, encoded=encoded, after=after, error=error)

    def _end(self, job: Job, **outcome: Any) -> None:
        if self._handover.end(job, self._timer(), **outcome):
            with self._lock:
                self._running.discard(job)
