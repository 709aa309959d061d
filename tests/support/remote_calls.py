"""Functions for other processes: small, so that a process imports them in no time."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

__all__ = [
    "OddError", "Unloadable", "add", "do", "finish_odd_first", "half", "hold", "is_no_third", "lock_of_two", "no_five", "no_seven",
    "own_pid", "pair", "raise_odd", "sum_below_twenty", "total_and_last", "twins",
]  # fmt: skip


def do(what: str, folder: str) -> str:
    """Return `what`, raise, or end the process, by the word that `what` begins with.

    folder    where a mark shows a later process that an earlier one has died of the same element
    """
    kind = what.partition(" ")[0]
    if kind == "raise":
        raise ValueError(what)
    if kind == "exit":
        raise SystemExit(what)
    if kind == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "once":
        mark = Path(folder, what)
        if not mark.exists():
            mark.touch()
            os._exit(3)
    return what


def hold(n: int, until: str) -> int:
    """Return `n` once the file `until` exists."""
    while not Path(until).exists():
        time.sleep(0.005)
    return n


def finish_odd_first(n: int, folder: str) -> int:
    """Return `n`: an even number only when the call with the next one is done."""
    if n % 2:
        Path(folder, str(n)).touch()
        return n
    return hold(n, str(Path(folder, str(n + 1))))


def own_pid(_: object) -> int:
    return os.getpid()


def lock_of_two(n: int) -> Any:
    return threading.Lock() if n == 2 else n


class OddError(Exception):
    """An exception that is pickled, and cannot be unpickled."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one}{two}")


def raise_odd(_: Any) -> None:
    raise OddError(1, 2)


class Unloadable:
    def __reduce__(self) -> Any:
        return eval, ("1 / 0",)

    def __call__(self, n: int) -> int:
        return n


# --- on whole numbers, for random pipelines ---


def add(a: int, b: int) -> int:
    return a + b


def pair(n: int) -> tuple[int, int]:
    return n, -n


def twins(n: int) -> list[int]:
    return [n] * (n % 3)


def is_no_third(n: int) -> bool:
    return n % 3 != 0


def half(n: int) -> int:
    return n // 2


def total_and_last(state: int, n: int) -> tuple[int, int]:
    return state + n, state - n


def no_five(n: int) -> int:
    if n % 5 == 0:
        msg = f"{n} is a multiple of five"
        raise ValueError(msg)
    return n


def no_seven(n: int) -> bool:
    if n % 7 == 0:
        raise KeyError(n)
    return n % 2 == 0


def sum_below_twenty(total: int, n: int) -> int:
    if total + n > 20:
        raise OverflowError(total)
    return total + n
