"""Dask clusters for tests: one on this machine, and a scheduler and workers as programs that can be killed."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import distributed
from distributed import Client, LocalCluster

__all__ = ["local_cluster", "scheduler", "worker", "worker_pids"]

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def local_cluster(**options: Any) -> Iterator[Client]:
    """Have two worker processes, and a client of them as the default one."""
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50, **options
        ) as cluster,
        Client(cluster, set_as_default=True) as client,
    ):
        yield client


def worker_pids(client: Client) -> list[int]:
    """Return the process ids of the workers of a local cluster."""
    cluster: Any = client.cluster
    return [nanny.pid for nanny in list(cluster.workers.values()) if nanny.pid]


def scheduler(port: int) -> "subprocess.Popen[bytes]":
    """Start a scheduler."""
    return _program("dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")


def worker(port: int) -> "subprocess.Popen[bytes]":
    """Start a worker that looks for its scheduler for two minutes, and ends with it."""
    options = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--death-timeout", "120"]
    return _program("dask_worker", f"tcp://127.0.0.1:{port}", *options)


def _program(name: str, *arguments: str) -> "subprocess.Popen[bytes]":
    program = Path(distributed.__file__).parent / "cli" / f"{name}.py"
    command = [sys.executable, "-m", f"distributed.cli.{program.stem}", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
