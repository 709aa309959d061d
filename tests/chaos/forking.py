"""Forks runs of a program that has imported everything already: one for each line of its standard input."""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

__all__ = ["fork_for_each_line"]


def fork_for_each_line(run: Callable[[], None], *, errors: str | None = None) -> None:
    """Fork a process that calls `run` for each line of the standard input, and print its id; kill all of them at the end.

    errors    a file to which what ends a run is appended
    """
    started: list[int] = []  # without waiting, so that no process id is reused
    try:
        for _ in sys.stdin:
            child = os.fork()
            if not child:
                try:
                    run()
                except BaseException as error:
                    if errors is not None:
                        with Path(errors).open("a") as file:
                            file.write(f"{error!r}\n")
                    raise
                finally:
                    os._exit(0)
            started.append(child)
            print(child, flush=True)  # noqa: T201
    finally:  # also after the test has ended and closed its pipe, so that no run is left behind
        for child in started:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
