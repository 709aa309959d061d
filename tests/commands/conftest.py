"""Fixtures that run the `sluice` command in this process."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
import redis
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.cli import main
from deployments.servers.redis_server import RedisServer
from tests.support.commands import Sluice, the_sentence


@pytest.fixture
def in_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs the command in this process, which saves a second, and returns what it printed.

    The environment is restored afterwards. Prefect's settings are read once in a process, so its URL is set here.
    """

    def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        others = {name: value for name, value in os.environ.items() if name != "SLUICE_REDIS_URL"}
        env = others | {"SLUICE_STATE_DIR": str(tmp_path), "COLUMNS": "120"} | env
        with (
            patch.dict(os.environ, env, clear=True),
            patch.object(sys, "argv", ["sluice", *arguments]),
            temporary_settings({PREFECT_API_URL: env.get("PREFECT_API_URL", "")}),
            pytest.raises(SystemExit) as end,
        ):
            main()
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, int(end.value.code or 0), out, err)

    return run


@pytest.fixture
def refusal(in_process: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., str]:
    """Return a function that runs the command in this process and returns the line of its error."""
    return lambda *arguments, **env: the_sentence(in_process(*arguments, **env))


@pytest.fixture
def sluice(
    real_redis: redis.Redis,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Sluice:
    """Return a function that runs the command in this process and returns its exit code and what it printed."""
    monkeypatch.setenv("SLUICE_REDIS_URL", redis_server.url)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str, answer: str = "") -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["sluice", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out + err

    return run
