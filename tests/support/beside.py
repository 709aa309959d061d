"""Outlets as real processes side by side, started and stopped by lines on standard input: `start a`, `stop a`.

    python -m tests.support.beside URL FOLDER

All modules are imported once, and each outlet is forked before any thread or connection exists. An outlet writes its
entries to FOLDER/<name>. Each input line is answered once it is done.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from streamz import Stream

from flows import outlet


def live(name: str, folder: Path) -> None:
    """Run an outlet with a group of its own until a signal stops it."""
    file = os.open(folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    @outlet(topics="numbers", group=name, lease="2s")
    def numbers(source: Stream) -> None:
        source.buffer(10).map(seen).sliding_window(2).sink(lambda _: None)

    def seen(entry: Any) -> Any:
        os.write(file, b"%d\n" % entry["n"])
        return entry

    numbers.fn()


def main(url: str, folder: Path) -> None:
    """Execute the input lines, and stop the outlets at the end of the input."""
    os.environ["SLUICE_REDIS_URL"] = url
    children: dict[str, int] = {}
    for line in sys.stdin:
        what, name = line.split()
        if what == "start":
            child = os.fork()
            if not child:
                os.close(0)
                live(name, folder)
                os._exit(0)
            children[name] = child
        else:
            os.kill(child := children.pop(name), signal.SIGTERM)
            _, status = os.waitpid(child, 0)
            what += f" {status}"
        sys.stdout.write(f"{what} {name}\n")
        sys.stdout.flush()
    for child in children.values():
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
