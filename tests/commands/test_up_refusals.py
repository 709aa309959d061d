"""Reasons for which `sluice up` starts nothing."""

import os
import socket
from pathlib import Path

from deployments.servers.ledger import Ledger
from deployments.servers.redis_server import RedisServer
from tests.support.commands import sluice, the_sentence
from tests.support.ports import refusing_port, reserve_port


def test_up_refuses_a_folder_where_another_one_runs(tmp_path: Path) -> None:
    with Ledger(tmp_path).held():
        line = the_sentence(sluice("up", state=tmp_path))
    assert f"already running here (process {os.getpid()}" in line


def test_up_names_the_program_on_its_port_and_the_remedy(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = sluice("up", "--port", str(port), state=tmp_path)
    line = the_sentence(result)
    assert f"port {port} is taken by another program" in line
    assert line.endswith(f': sluice up --port {port + 1}, or make up ARGS="--port {port + 1}"')
    assert "stopped in" not in result.stdout, "nothing had been started"


def test_up_reports_that_the_given_prefect_server_does_not_answer(tmp_path: Path, redis_server: RedisServer) -> None:
    url = f"http://127.0.0.1:{refusing_port()}/api"
    line = the_sentence(sluice("up", state=tmp_path, PREFECT_API_URL=url, SLUICE_REDIS_URL=redis_server.url))
    assert f"no Prefect server answers at PREFECT_API_URL ({url})" in line


def test_up_with_a_redis_that_does_not_answer_starts_nothing(tmp_path: Path) -> None:
    url = f"redis://:hunter2@127.0.0.1:{refusing_port()}/0"
    result = sluice("up", "--port", str(reserve_port()), state=tmp_path, SLUICE_REDIS_URL=url)
    line = the_sentence(result)
    assert "does not answer (Connection refused)" in line
    assert "hunter2" not in result.stdout + line
    assert not (tmp_path / "logs" / "prefect-server.log").exists()
