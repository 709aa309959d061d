"""Run one outlet after the other in processes of their own, and kill -9 all but the last at random points.

    python -m tests.chaos.outlet URL SHAPE LOG KILLS SEED

Everything is imported once and each outlet is forked, before any thread or connection exists: an import costs
more than a life. Prints a line when the last outlet was started; ends it when its standard input ends.
"""

import json
import os
import random
import signal
import sys
import time
from typing import Any

from streamz import Stream

import tasks.sinks
import tasks.source  # noqa: F401  # adds from_redis to Stream

LEASE = 0.5


def live(url: str, shape: str, log: str) -> None:
    """Run the pipeline until killed; a line in the log for all that its sink saw, written at once."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def see(element: Any) -> None:
        os.write(file, json.dumps(element).encode() + b"\n")

    source = Stream.from_redis("numbers", group="lab", url=url, lease=LEASE)
    numbers = source.pluck("n")
    if shape == "plain":
        numbers.sink(see)
    elif shape == "windows":
        numbers.sliding_window(3, return_partial=False).sink(see)
    else:
        numbers.map(lambda n: {"n": n}).to_redis("results")
    source.start()
    while True:
        signal.pause()


def main(url: str, shape: str, log: str, kills: int, seed: int) -> None:
    """Start an outlet, kill it, start its successor at once, and so on."""
    chance = random.Random(seed)
    for life in range(kills + 1):
        child = os.fork()
        if not child:
            live(url, shape, log)
        try:
            if life < kills:
                time.sleep(chance.uniform(0.05, 2.5 * LEASE))
            else:
                os.write(1, b"killed\n")
                sys.stdin.read()
        finally:  # also when the test has gone and its pipe is closed: no outlet may be left behind
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


if __name__ == "__main__":
    _, where, which, seen, how_often, seed = sys.argv
    main(where, which, seen, int(how_often), int(seed))
