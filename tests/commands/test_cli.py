"""The `sluice` command as a whole: help, errors, and where it runs."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import httpx
import pytest
import redis
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.servers.prefect_server import said_by
from deployments.servers.redis_server import RedisServer
from tasks.errors import SettingsError
from tests.support.commands import redis_of, sluice, the_sentence
from tests.support.plain import ROOT
from tests.support.ports import refusing_port


def test_help_names_the_commands_and_needs_no_prefect(tmp_path: Path) -> None:
    result = sluice("--help", state=tmp_path)
    assert result.returncode == 0
    assert all(name in result.stdout for name in ("up", "status", "peek", "dead", "doctor", "restart", "stop"))
    loaded = "import deployments.cli, sys; sys.exit(bool({'prefect', 'pandas', 'redis'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", loaded], check=False).returncode == 0


def test_version_is_that_of_the_package_and_needs_no_redis(tmp_path: Path) -> None:
    result = sluice("--version", state=tmp_path)
    assert (result.returncode, result.stdout) == (0, f"sluice {version('sluice')}\n")


def test_a_missing_redis_is_reported_in_one_sentence_with_a_cure(refusal: Callable[..., str]) -> None:
    assert "run `make up`, or set SLUICE_REDIS_URL" in refusal("peek", "market")


def test_a_redis_that_does_not_answer_is_named_without_its_password(refusal: Callable[..., str]) -> None:
    line = refusal("peek", "market", SLUICE_REDIS_URL=f"redis://user:hunter2@127.0.0.1:{refusing_port()}/0")
    assert "does not answer" in line
    assert "hunter2" not in line


def test_debug_shows_the_traceback(tmp_path: Path, in_process: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    result = sluice("--debug", "peek", "x", state=tmp_path)
    assert "Traceback" in result.stderr
    assert result.returncode == 1
    with pytest.raises(SettingsError):  # the interpreter would print it with its traceback
        in_process("peek", "x", SLUICE_DEBUG="1")


def test_restart_reports_that_no_prefect_server_answers(refusal: Callable[..., str]) -> None:
    url = f"http://127.0.0.1:{refusing_port()}/api"
    line = refusal("restart", "movers", PREFECT_API_URL=url)
    assert f"no Prefect server answers at {url}; run `make up`" in line


def test_a_timeout_is_a_duration_with_a_unit(
    in_process: Callable[..., subprocess.CompletedProcess[str]], refusal: Callable[..., str]
) -> None:
    url = f"http://127.0.0.1:{refusing_port()}/api"
    assert "no Prefect server answers" in refusal("stop", "movers", "--timeout", "PT1M", PREFECT_API_URL=url)
    refused = in_process("stop", "movers", "--timeout", "1M", PREFECT_API_URL=url)
    assert refused.returncode == 2
    assert "timeout: expected a duration such as '500ms'" in refused.stderr


def test_a_refused_redis_command_is_reported_in_one_sentence(
    refusal: Callable[..., str], real_redis: redis.Redis, redis_server: RedisServer
) -> None:
    real_redis.execute_command("ACL", "SETUSER", "half", "on", ">hunter2", "~*", "+@all", "-xrevrange")
    real_redis.xadd("signals", {"n": 1})
    line = refusal("peek", "signals", SLUICE_REDIS_URL=f"unix://half:hunter2@{redis_server.socket}")
    assert "NoPermissionError" in line
    assert "xrevrange" in line
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("status", "says"), [(401, "requires another key (401); set PREFECT_API_AUTH_STRING"), (503, "an error (503)")]
)
def test_an_error_of_the_prefect_server_is_reported_in_one_sentence(status: int, says: str) -> None:
    request = httpx.Request("GET", "http://user:hunter2@127.0.0.1:1/api/flows")
    error = httpx.HTTPStatusError("hunter2", request=request, response=httpx.Response(status, request=request))
    with temporary_settings({PREFECT_API_URL: "http://user:hunter2@127.0.0.1:1/api"}):
        message = said_by(error)
    assert says in message
    assert "at http://127.0.0.1:1/api" in message
    assert "hunter2" not in message


def test_python_without_sluice_prints_how_to_install_it(tmp_path: Path) -> None:
    bare = [sys.executable, "-S", "-m", "deployments", "status"]  # -S: without what is installed
    result = subprocess.run(bare, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert "has no module 'typer': Sluice is not installed for it; run `make up`" in the_sentence(result)


def test_the_command_works_from_any_folder(tmp_path: Path, real_redis: redis.Redis, redis_server: RedisServer) -> None:
    real_redis.xadd("signals", {"n": 1})
    command = [str(Path(sys.executable).with_name("sluice")), "peek", "signals", "--json"]
    env = {**os.environ, **redis_of(tmp_path, redis_server)}
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert json.loads(result.stdout)["fields"] == {"n": 1}
