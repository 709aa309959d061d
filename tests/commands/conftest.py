"""Fixtures that run the `sluice` command in this process."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.cli import main
from tests.support.commands import the_sentence


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
