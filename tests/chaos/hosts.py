"""Hosts on one machine: network namespaces on a bridge, each with a worker and a state folder of its own.

    this host (Redis, Prefect's server) --- bridge --- host 1
                                               `------ host 2

Only root can create them.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Self

import psutil
import pytest
import redis
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun

from deployments.servers.ledger import flow_run_processes
from deployments.servers.prefect_server import worker
from deployments.servers.redis_server import RedisServer
from tests.support.plain import ROOT, SECRET, Plain
from tests.support.ports import reserve_port

__all__ = ["Host", "Network", "reachable_stack"]


class Network:
    """A bridge with an address of this host, and network namespaces that are connected to it.

    address   of this host, in the range of RFC 2544, which no other network uses
    """

    def __init__(self, hosts: int) -> None:
        self._name = f"sl{os.getpid()}"
        self._net = f"198.18.{os.getpid() % 250}"
        self.address = f"{self._net}.1"
        self.namespaces = [f"{self._name}h{n}" for n in range(hosts)]

    def __enter__(self) -> Self:
        if os.geteuid() or not shutil.which("ip") or not shutil.which("nsenter"):
            pytest.skip("network namespaces need root, and the programs ip and nsenter (Debian: iproute2, util-linux)")
        made = _run("ip", "link", "add", self._name, "type", "bridge", check=False)
        if made.returncode:
            pytest.skip(f"no bridge can be created here: {made.stderr.strip()}")
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _build(self) -> None:
        _run("ip", "addr", "add", f"{self.address}/24", "dev", self._name)
        _run("ip", "link", "set", self._name, "up")
        for n, space in enumerate(self.namespaces, 2):
            _run("ip", "netns", "add", space)
            _run("ip", "link", "add", f"{space}v", "type", "veth", "peer", "name", "eth0", "netns", space)
            _run("ip", "link", "set", f"{space}v", "master", self._name, "up")
            _run("ip", "-n", space, "addr", "add", f"{self._net}.{n}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _run("ip", "-n", space, "link", "set", device, "up")

    def __exit__(self, *_: object) -> None:
        for space in self.namespaces:
            _run("ip", "link", "del", f"{space}v", check=False)
            _run("ip", "netns", "del", space, check=False)
        _run("ip", "link", "del", self._name, check=False)

    def cut(self, space: str) -> None:
        """Disconnect a host within the bridge, as a broken switch does: no side notices, and packets disappear."""
        _run("ip", "link", "set", f"{space}v", "nomaster")

    def mend(self, space: str) -> None:
        """Connect a host again."""
        _run("ip", "link", "set", f"{space}v", "master", self._name)


class Host:
    """One host with a worker of a stack's pool, and its runs.

    ahead     seconds that its wall clock is ahead of this host's; its monotonic clocks are right
    """

    def __init__(self, stack: Plain, namespace: str, folder: Path, *, ahead: int = 0) -> None:
        self.namespace = namespace
        self.folder = folder
        env = stack.env | {"SLUICE_STATE_DIR": str(folder)} | (_set_clock(ahead) if ahead else {})
        self.worker = worker(log=folder / "worker.log", env=env, cwd=ROOT)
        self.worker.command[:0] = ["nsenter", f"--net=/run/netns/{namespace}"]

    def __enter__(self) -> Self:
        self.worker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.worker.kill()
        for _, process in flow_run_processes(self.folder):
            process.kill()

    @property
    def runs(self) -> dict[str, int]:
        """The processes of its runs, by the run's id."""
        return {str(run): process.pid for run, process in flow_run_processes(self.folder)}

    @contextmanager
    def idle(self) -> Iterator[None]:
        """Let its worker start no run within this context."""
        process = psutil.Process(self.worker.pid)
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def running(self, runs: list[FlowRun]) -> list[FlowRun]:
        """Return those of the runs that are Running here."""
        here = self.runs
        return [run for run in runs if run.state_name == "Running" and str(run.id) in here]


@contextmanager
def reachable_stack(folder: Path, reservoir: RedisServer, address: str) -> Iterator[Plain]:
    """Yield a stack whose Prefect server and Redis other hosts reach at `address`, and only there."""
    port = reserve_port()
    with redis.Redis.from_url(reservoir.url, protocol=2) as client:
        for name, value in (("protected-mode", "no"), ("bind", address), ("port", str(port))):
            client.config_set(name, value)
    stack = Plain(folder, reservoir)
    api = stack.env["PREFECT_API_URL"].replace("127.0.0.1", address)
    stack.env |= {"PREFECT_API_URL": api, "SLUICE_REDIS_URL": f"redis://{address}:{port}"}
    stack.server.command = [address if each == "127.0.0.1" else each for each in stack.server.command]
    stack.client = SyncPrefectClient(api, auth_string=SECRET)
    with stack:
        yield stack


def _set_clock(ahead: int) -> dict[str, str]:
    """Return the environment of processes whose wall clock is `ahead` seconds ahead, or with a negative number behind."""
    # Not Debian's libfaketime 0.9.10: with it, `time.sleep` of CPython 3.11 fails, because it also shifts monotonic sleeps.
    package = find_spec("libfaketime")
    libraries = Path(package.origin).parent.rglob("libfaketime.so.1") if package and package.origin else []
    for library in libraries:
        return {"LD_PRELOAD": str(library), "FAKETIME": f"{ahead:+d}", "DONT_FAKE_MONOTONIC": "1"}
    pytest.skip("wall clocks that differ need libfaketime: pip install libfaketime")


def _run(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=check, capture_output=True, text=True)
