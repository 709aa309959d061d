"""Calls of functions that happen in another process: elements go there as bytes, and outcomes come back as bytes.

This file is also the program of a worker process (`tasks.remote.worker_process`). It imports
the standard library and cloudpickle only, so that a worker process starts in tens of milliseconds.
"""

import contextlib
import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle

__all__ = ["FAILED", "OK", "UNLOADABLE", "Call", "RemoteError", "outcome_of", "result_of", "unloadable"]

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
"""A function, and what it is called with behind the element."""

OK = b"+"
FAILED = b"-"
UNLOADABLE = b"?"
"""First bytes of an outcome: a result follows, what the function raised, or why the function could not be unpickled."""


class RemoteError(Exception):
    """Stands for an exception that pickle cannot carry, with the `repr` of that exception."""


class _RemoteTracebackError(Exception):
    """The cause of an exception that was raised in another process: the traceback there, as text."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


# --- where the function runs ---


def outcome_of(call: Call, element: bytes, complete: Callable[[Any], Any] | None = None) -> bytes:
    """Call a function on a pickled element; return its result, or whatever it raised, as bytes.

    complete   called with the element before
    """
    function, args, kwargs = call
    try:
        x = pickle.loads(element)  # noqa: S301 - from the run
        if complete is not None:
            x = complete(x)
        return OK + cloudpickle.dumps(function(x, *args, **kwargs))
    except BaseException as error:  # noqa: BLE001 - a library may call sys.exit: that is the failure of this element
        return FAILED + _carried(error)


def unloadable(error: BaseException) -> bytes:
    """Return the outcome of a function that cannot be unpickled here."""
    return UNLOADABLE + _carried(error)


def _carried(error: BaseException) -> bytes:
    text = "".join(traceback.format_exception(error))
    with contextlib.suppress(Exception):
        carried = cloudpickle.dumps((error, text))
        pickle.loads(carried)  # noqa: S301 - some exceptions are pickled, and cannot be unpickled
        return carried
    return cloudpickle.dumps((None, repr(error), text))


# --- where the outcome is used ---


def result_of(outcome: bytes) -> Any:
    """Return the result in an outcome, or raise what the function raised."""
    value = pickle.loads(memoryview(outcome)[1:])  # noqa: S301 - from a process of this run
    if outcome[:1] == OK:
        return value
    error, *text = value
    if error is None:
        error, text = RemoteError(text[0]), text[1:]
    raise error from _RemoteTracebackError(*text)


# --- the program of a worker process ---


def main(descriptor: int) -> None:
    """Answer calls until the other side hangs up; then end at once, in the middle of a call too.

    The first two messages are the import path and the pickled call; the answer is an outcome without a result.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the run ends this one
    connection = Connection(descriptor)
    sys.path[:] = pickle.loads(connection.recv_bytes())  # noqa: S301 - from the run
    try:
        call: Call = pickle.loads(connection.recv_bytes())  # noqa: S301 - from the run
    except EOFError:
        return
    except BaseException as error:  # noqa: BLE001 - whatever an import raises
        connection.send_bytes(unloadable(error))
        return
    connection.send_bytes(OK + pickle.dumps(None))
    elements: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, elements), daemon=True).start()
    while True:
        connection.send_bytes(outcome_of(call, elements.get()))


def _receive(connection: Connection, elements: "queue.SimpleQueue[bytes]") -> None:
    """Receive elements; end the process when the other side hangs up, whatever the main thread does."""
    try:
        while True:
            elements.put(connection.recv_bytes())
    except (EOFError, OSError):
        os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
