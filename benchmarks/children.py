"""Runs a function in a process of its own, so that no measurement affects another by imports, leftovers or hangs.

python -m benchmarks.children throughput:measure '{"name": "walrus", ...}'
"""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

__all__ = ["Child", "call", "ready"]

_TIMEOUT = 240.0
_ROOT = Path(__file__).parents[1]


class Child:
    """A function of this package in a process of its own."""

    def __init__(self, function: str, **arguments: Any) -> None:
        self.function = function
        self._process = subprocess.Popen(  # noqa: S603 - this package
            [sys.executable, "-m", "benchmarks.children", function, json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
        )

    def until_ready(self) -> Self:
        """Wait until the function calls `ready`."""
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            msg = f"{self.function} ended before it was ready"
            raise RuntimeError(msg)
        return self

    def go(self) -> None:
        """Let the function continue after `ready`."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def result(self, *, timeout: float = _TIMEOUT) -> Any:
        """Wait for the process and return the function's result; kill it after `timeout` seconds."""
        try:
            output, _ = self._process.communicate(timeout=timeout)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        if self._process.returncode:
            msg = f"{self.function} failed with exit code {self._process.returncode}"
            raise RuntimeError(msg)
        return json.loads(output.splitlines()[-1])


def call(function: str, **arguments: Any) -> Any:
    """Call `module:function` of this package in a new process, and return its result."""
    return Child(function, **arguments).result()


def ready() -> None:
    """Report that imports and preparations are done, and wait for `go`."""
    print("ready", flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    module, _, name = sys.argv[1].partition(":")
    found = getattr(importlib.import_module(f"benchmarks.{module}"), name)
    print(json.dumps(found(**json.loads(sys.argv[2]))), flush=True)
