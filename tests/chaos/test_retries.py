"""A one-shot run that dies between its push and its final state, and is retried, on a real Prefect server."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
import redis
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL
from prefect.states import AwaitingRetry, Pending, Scheduled

from deployments.servers.redis_server import RedisServer
from tasks import Reservoir
from tests.chaos.dying import dying

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.chaos, pytest.mark.usefixtures("prefect"), pytest.mark.timeout(300)]


def as_prefect_runs_it(run: UUID, redis_url: str, **env: str) -> int:
    """Run a flow run in a process of its own and return its exit code."""
    settings = {
        "PREFECT__FLOW_ENTRYPOINT": f"{ROOT}/tests/chaos/dying.py:dying",
        "PREFECT_API_URL": PREFECT_API_URL.value(),
        "PREFECT_API_AUTH_STRING": PREFECT_API_AUTH_STRING.value(),
        "SLUICE_REDIS_URL": redis_url,
    }
    command = [sys.executable, "-m", "prefect.engine", str(run)]
    return subprocess.run(command, env=os.environ | settings | env, cwd=ROOT, timeout=60, check=False).returncode


def test_retry_of_a_run_killed_after_its_push_pushes_nothing_more(
    redis_server: RedisServer, real_redis: redis.Redis
) -> None:
    reservoir = Reservoir(real_redis)
    with get_client(sync_client=True) as server:
        run = server.create_flow_run(dying, state=Scheduled(scheduled_time=datetime.now(UTC))).id
        server.set_flow_run_state(run, Pending())
        assert as_prefect_runs_it(run, redis_server.url, DIE="1") == -signal.SIGKILL
        assert server.read_flow_run(run).state_name == "Running"
        before = reservoir.peek("daily", 9)
        assert len(before) == 1
        server.set_flow_run_state(run, AwaitingRetry(scheduled_time=datetime.now(UTC)), force=True)  # the UI's Retry
        server.set_flow_run_state(run, Pending())
        assert as_prefect_runs_it(run, redis_server.url) == 0
        assert server.read_flow_run(run).state_name == "Completed"
    assert reservoir.peek("daily", 9) == before
