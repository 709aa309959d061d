"""The `sluice` command in a process of its own."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deployments.servers.redis_server import RedisServer
from tests.support.plain import clean_environment
from tests.support.ports import refusing_port

__all__ = ["Sluice", "redis_of", "running", "sluice", "the_sentence"]

Sluice = Callable[..., tuple[int, str]]
"""Runs the command in the process of the tests; returns its exit code and what it printed."""


def sluice(*arguments: str, state: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command with its own state folder, without the test process's settings in its environment."""
    return subprocess.run(
        [sys.executable, "-m", "deployments", *arguments],
        env=clean_environment(SLUICE_STATE_DIR=str(state), COLUMNS="120", **env),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def the_sentence(result: subprocess.CompletedProcess[str]) -> str:
    """Return the single line in which a failed command reports its error."""
    assert result.returncode == 1, result
    assert "Traceback" not in result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("sluice: ")
    return line


def redis_of(tmp_path: Path, server: RedisServer) -> dict[str, str]:
    """Return an environment in which the command finds this Redis and no Prefect server."""
    return {
        "SLUICE_STATE_DIR": str(tmp_path),
        "SLUICE_REDIS_URL": server.url,
        "PREFECT_API_URL": f"http://127.0.0.1:{refusing_port()}/api",
    }


@contextmanager
def running(
    *arguments: str, env: dict[str, str], terminal: bool = False
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run the command until the context ends, with its output in a file; `terminal` gives it a terminal of its own."""
    output = Path(env["SLUICE_STATE_DIR"]) / "output"
    command = [sys.executable, "-m", "deployments", *arguments]
    if terminal:  # script(1) provides a terminal and records it
        command = ["script", "--quiet", "--flush", "--return", "--command", shlex.join(command), str(output)]
    with output.open("wb") as file:
        process = subprocess.Popen(
            command,
            env=clean_environment(COLUMNS="120", LINES="40", TERM="xterm", **env),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL if terminal else file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process, output
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
