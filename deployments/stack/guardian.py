"""Ends what a killed `sluice up` left running, at once and in order: flows, worker, servers.

It waits for the end of its standard input, which the supervisor holds open without ever writing to it: the kernel
closes it however the supervisor ends. It loads nothing before that: 10 MB.
"""

import subprocess
import sys
from pathlib import Path
from typing import Self

__all__ = ["Guardian"]


class Guardian:
    """A process that outlives its supervisor for as long as it takes to clear up after it."""

    def __init__(self, folder: Path, supervisor: int, *, cwd: Path) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-m", "deployments.stack.guardian", str(folder), str(supervisor)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # no Ctrl-C, and not killed with the group of the supervisor
            cwd=cwd,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        if failed is None:  # nothing is left to do for it: the supervisor has stopped everything itself
            self._process.kill()
        # Else the stop may have broken off (the terminal went in the middle of it): it clears up what is left.
        self._process.communicate()


def _wait_and_clear(folder: Path, supervisor: int) -> None:
    sys.stdin.read()
    from deployments.servers.ledger import Ledger  # noqa: PLC0415 - only now, see above

    ledger = Ledger(folder)
    if ledger.supervisor() == supervisor:  # else another one is at work here by now, and has cleared up itself
        ledger.end_orphans()


if __name__ == "__main__":
    _wait_and_clear(Path(sys.argv[1]), int(sys.argv[2]))
