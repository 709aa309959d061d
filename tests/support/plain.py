"""A Prefect server for the tests, with a worker and the deployments of `prefect.yaml`, and queries to it."""

import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Self
from uuid import UUID

import prefect
import redis
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import ArtifactFilter, FlowFilter
from prefect.client.schemas.objects import Artifact, FlowRun

from deployments.rollout import apply as rollout
from deployments.servers.ledger import flow_run_processes
from deployments.servers.prefect_server import prefect_server, settings_of_own_server, wait_for_server, worker
from deployments.servers.redis_binary import REDIS_SERVER
from deployments.servers.redis_server import RedisServer
from tasks.reservoir.keys import LEVELS
from tasks.settings import METRICS_PORT
from tests.support.ports import reserve_port
from tests.support.streams import push_all
from tests.support.waiting import wait_until

__all__ = ["ROOT", "SECRET", "Plain", "clean_environment", "entries", "run_levels"]

SECRET = "of-the_tests"  # the password of the server
ROOT = Path(__file__).resolve().parents[2]


def clean_environment(**added: str) -> dict[str, str]:
    """Return this process's environment plus `added`, without Prefect's and Sluice's settings except the Redis program."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "SLUICE_"))}
    kept = {name: os.environ[name] for name in [REDIS_SERVER] if name in os.environ}
    # Several stacks run at once, and one may have the metrics' port.
    return mine | kept | {METRICS_PORT: "off"} | added


def entries(url: str, topic: str) -> int:
    try:
        with redis.Redis.from_url(url, protocol=2) as client:
            return client.xlen(topic)
    except redis.RedisError:
        return 0


class Plain:
    """A Prefect server, and a worker that tests start, as a user starts them without `sluice up`.

    cache    a folder that keeps a migrated database of this version of Prefect for later servers
    """

    def __init__(self, folder: Path, reservoir: RedisServer, *, cache: Path | None = None) -> None:
        port = reserve_port()
        self.redis_url = reservoir.url
        self.env = settings_of_own_server(folder / "prefect", port, secret=SECRET) | {
            "SLUICE_REDIS_URL": reservoir.url,
            "SLUICE_STATE_DIR": str(folder),
            "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",  # no runs but those that a test starts
            "PWD": str(ROOT),
        }
        self.folder = folder
        self._database = folder / "prefect" / "prefect.db"
        self._migrated = cache / f"{prefect.__version__}.db" if cache else None
        self.server = prefect_server(port, log=folder / "server.log", env=self.env, cwd=ROOT)
        self.worker = worker(log=folder / "worker.log", env=self.env, cwd=ROOT)
        self.client = SyncPrefectClient(self.env["PREFECT_API_URL"], auth_string=SECRET)

    def __enter__(self) -> Self:
        self.client.__enter__()
        try:
            if self._migrated and self._migrated.exists():
                self._database.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self._migrated, self._database)
            self.start_server()
            if self._migrated and not self._migrated.exists():
                self.copy_database(self._migrated)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.worker.kill()
        for _, process in flow_run_processes(self.folder):
            process.kill()
        self.server.kill()
        self.client.__exit__(None, None, None)

    def copy_database(self, to: Path) -> None:
        """Copy the server's database; other processes see the whole copy or none."""
        partial = to.with_suffix(f".{os.getpid()}")
        with closing(sqlite3.connect(self._database)) as source, closing(sqlite3.connect(partial)) as target:
            source.backup(target)
        partial.replace(to)

    def deploy(self) -> None:
        """Deploy `prefect.yaml`."""
        rollout.ensure_pool(self.client)
        self.prefect("deploy", "--all")

    def start_server(self) -> None:
        """Start or restart the server, and wait until it answers."""
        self.server.start()
        wait_for_server(self.env["PREFECT_API_URL"], self.server)

    def prefect(self, *arguments: str) -> str:
        """Run `prefect` with these arguments in the checkout, and return its output."""
        command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
        done = subprocess.run(command, env=self.env, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def runs(self, flow: str) -> list[FlowRun]:
        """Return the flow's runs, oldest first."""
        found = self.client.read_flow_runs(flow_filter=FlowFilter.model_validate({"name": {"any_": [flow]}}))
        return sorted(found, key=lambda run: run.created or run.expected_start_time)

    def deployment(self, name: str) -> UUID:
        return self.client.read_deployment_by_name(name).id

    def artifact(self, run: UUID, kind: str = "markdown") -> Artifact | None:
        """Return the run's newest artifact of that kind, or None."""
        wanted = {"flow_run_id": {"any_": [run]}, "type": {"any_": [kind]}}
        found = self.client.read_artifacts(artifact_filter=ArtifactFilter.model_validate(wanted))
        return found[0] if found else None

    def state(self, run: UUID) -> str:
        return self.client.read_flow_run(run).state_name or ""


def run_levels(plain: Plain) -> UUID:
    """Run the flow `levels` on a reservoir where one group lags and another lagged in the hours before."""
    rollout.ensure_automations(plain.client)
    now = time.time_ns() // 1_000_000
    with redis.Redis.from_url(plain.redis_url, protocol=2) as client:
        push_all(client, "flooded", range(5))
        client.xgroup_create("flooded", "slow", "0")
        for n in range(60):
            lag = round(400 * abs(math.sin(n / 9)) * n / 60)
            client.xadd(
                LEVELS,
                {"groups": json.dumps([["market", "movers", lag, 0, 0]])},
                id=f"{now - (60 - n) * 300_000}-0",
            )
    run = plain.client.create_flow_run_from_deployment(plain.deployment("levels/levels"), parameters={"max_lag": 3})
    wait_until(lambda: plain.state(run.id) == "Completed", "its end")
    return run.id
