"""Ends the processes that a killed `sluice up` left running, in order: flows, worker, servers.

The guardian waits for the end of its standard input. The supervisor holds that open and never writes to it, and the
kernel closes it however the supervisor ends. The guardian imports nothing before that, and takes 10 MB.
"""

import subprocess
import sys
from pathlib import Path
from typing import Self

__all__ = ["Guardian"]


class Guardian:
    """A process that outlives its supervisor until it has cleaned up after it."""

    def __init__(self, folder: Path, supervisor: int, *, cwd: Path) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-m", "deployments.stack.guardian", str(folder), str(supervisor)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # gets no Ctrl-C, and is not killed with the supervisor's process group
            cwd=cwd,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        if failed is None:  # the supervisor has stopped everything itself
            self._process.kill()
        # Otherwise the stop may be incomplete, for example because the terminal closed: the guardian completes it.
        self._process.communicate()


def _wait_and_clear(folder: Path, supervisor: int) -> None:
    sys.stdin.read()
    from deployments.servers.ledger import Ledger  # noqa: PLC0415 - only now, see above

    ledger = Ledger(folder)
    if ledger.supervisor() == supervisor:  # else a later supervisor runs here, and has cleaned up itself
        ledger.end_orphans()


if __name__ == "__main__":
    _wait_and_clear(Path(sys.argv[1]), int(sys.argv[2]))
