"""A pool of worker processes that call one function, and outlast the death of each other."""

import asyncio
import queue
import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

from tasks.base.backoff import Backoff
from tasks.base.logs import get_logger
from tasks.base.plain_text import error_line
from tasks.base.repeated_warnings import Repeated
from tasks.errors import PipelineError
from tasks.remote.worker_process import WorkerDiedError, WorkerProcess

__all__ = ["PoolClosedError", "ProcessPool"]

logger = get_logger(__name__)

_LONGEST_PAUSE = 30.0


class PoolClosedError(Exception):
    """A call that the end of its pool has cut off: it has neither succeeded nor failed."""


class ProcessPool:
    """Worker processes that each call the same function, one element at a time.

    A thread for each process waits for its answers, so that it is known which call a dead process had. `concurrent.futures`
    ends all processes of a pool when one dies, and lets them outlive a killed parent.

    function   pickled
    name       of the node, for messages
    workers    the number of processes
    retries    how often a call is repeated whose process died
    """

    def __init__(self, function: bytes, *, name: str, workers: int, retries: int) -> None:
        self._function = function
        self._name = name
        self._size = workers
        self._retries = retries
        self._executor: ThreadPoolExecutor | None = None
        self._idle: queue.SimpleQueue[WorkerProcess | None] = queue.SimpleQueue()
        self._living: set[WorkerProcess] = set()
        self._lock = threading.RLock()  # around the set: calls replace processes while another thread closes the pool
        self._closing = threading.Event()
        self._warn = Repeated(logger)

    @property
    def pids(self) -> list[int]:
        """The ids of the processes. Any thread."""
        with self._lock:
            return [worker.pid for worker in self._living]

    def start(self) -> None:
        """Start the processes, and wait until the first has imported the function; do nothing if they were started.

        raises    PipelineError: a process cannot import the function
        """
        if self._executor is not None:
            return
        self._closing.clear()
        self._executor = ThreadPoolExecutor(self._size, thread_name_prefix=self._name)
        for _ in range(self._size):
            self._idle.put(self._new())
        loading = [self._executor.submit(self._load_one) for _ in range(self._size)]
        ended = wait(loading, return_when=FIRST_COMPLETED).done
        if all(errors := [one.exception() for one in ended]):
            self.close()
            [error, *_] = errors
            assert error is not None
            msg = (
                f"pipeline node {self._name!r}: expected a function that another process can import, got {error_line(error)}; "
                "move what it needs to a module on the import path, or import it within the function"
            )
            raise PipelineError(msg) from error

    def call(self, element: bytes) -> "asyncio.Future[bytes]":
        """Begin to call the function on a pickled element in one of the processes; return what brings the outcome.

        The outcome raises PipelineError if its process died, and so did those of all retries; PoolClosedError.
        """
        self.start()
        assert self._executor is not None
        return asyncio.get_running_loop().run_in_executor(self._executor, self._call, element)

    def close(self, *, waits: bool = True) -> None:
        """End all processes, and the calls that are under way. `start` starts the pool again.

        waits    whether to return only after the threads of the pool have ended; not in one of them
        """
        self._closing.set()
        with self._lock:
            living, self._living = self._living, set()
        for worker in living:
            worker.kill()
        for _ in range(self._size):
            self._idle.put(None)
        if self._executor is not None:
            self._executor.shutdown(wait=waits, cancel_futures=True)
            self._executor = None
        if waits:
            for worker in living:
                worker.close()
            self._idle = queue.SimpleQueue()
        self._warn.flush()

    # --- the threads of the pool ---

    def _take(self) -> WorkerProcess:
        """Return an idle process: there is one for each thread of the pool."""
        worker = self._idle.get()
        if worker is None or self._closing.is_set():
            raise PoolClosedError
        return worker

    def _new(self) -> WorkerProcess:
        with self._lock:
            if self._closing.is_set():
                raise PoolClosedError
            worker = WorkerProcess(self._function)
            self._living.add(worker)
            return worker

    def _discard(self, worker: WorkerProcess) -> None:
        with self._lock:
            self._living.discard(worker)
        worker.close()

    def _load_one(self) -> None:
        """Have an idle process import the function; raise the reason if it cannot."""
        worker = self._take()
        try:
            worker.load()
        except BaseException:
            self._discard(worker)
            worker = self._new()
            raise
        finally:
            self._idle.put(worker)

    def _call(self, element: bytes) -> bytes:
        deaths = 0
        while True:
            worker = self._loaded()
            try:
                outcome = worker.call(element)
            except WorkerDiedError as death:
                self._discard(worker)
                self._idle.put(self._new())
                deaths += 1
                if deaths > self._retries:
                    msg = f"its worker process died in {deaths} of {deaths} calls, the last time with {death}"
                    raise PipelineError(msg) from death
                self._warn(
                    f"pipeline node {self._name!r}: worker processes died; their calls are repeated", detail=str(death)
                )
            else:
                self._idle.put(worker)
                return outcome

    def _loaded(self) -> WorkerProcess:
        """Return an idle process that has imported the function; try for as long as it takes.

        The function was imported once, so that the reason lies in the environment, such as an edited module or full memory.
        """
        backoff = Backoff(first=0.1, longest=_LONGEST_PAUSE)
        worker = self._take()
        while True:
            try:
                worker.load()
            except BaseException as error:  # noqa: BLE001 - whatever an import raises
                self._discard(worker)
                if not self._closing.is_set():
                    self._warn(
                        f"pipeline node {self._name!r}: a new worker process cannot import the function; elements wait",
                        detail=error_line(error),
                    )
                self._closing.wait(backoff.next())
                worker = self._new()
            else:
                return worker
