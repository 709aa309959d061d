"""Reports an error of a command in one sentence instead of a traceback."""

import os
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["DEBUG", "reporting_errors"]

DEBUG = "SLUICE_DEBUG"
"""The variable that asks for tracebacks."""


def reporting_errors(run: Callable[[], Any]) -> None:
    """Run something; report an error in one sentence, and end this process with exit code 1."""
    try:
        run()
    except BrokenPipeError:  # `sluice peek ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if os.environ.get(DEBUG) or not (sentence := _sentence(error)):
            raise
        from deployments.show.terminal import print_aside  # noqa: PLC0415

        print_aside(f"sluice: {sentence}")
        sys.exit(1)


def _sentence(error: Exception) -> str:
    """Return an error as one sentence; '' for a bug of Sluice, which needs its traceback."""
    from httpx import HTTPError  # noqa: PLC0415 - these load what --help does not need
    from redis.exceptions import RedisError  # noqa: PLC0415

    from deployments.servers.prefect_server import said_by  # noqa: PLC0415
    from tasks.errors import SluiceError  # noqa: PLC0415
    from tasks.reservoir.connection import in_words  # noqa: PLC0415

    if isinstance(error, RedisError):  # it answered at first
        return f"{in_words(error)}; see `sluice doctor`"
    if isinstance(error, HTTPError):
        return said_by(error)
    return str(error) if isinstance(error, SluiceError) else ""
