"""Overhead of a scheduled inlet: rows in Prefect's database per run, and CPU per tick.

    python -m benchmarks.inlets [--minutes 10]
    python -m benchmarks.inlets --many 50 [--minutes 10] [--checkout FOLDER]

On a Prefect server as `sluice up` starts it, with a worker, the shipped inlet `seconds` runs twice every minute: once with
a tick per second and once with a tick per minute. Their runs are otherwise the same, so the difference is the cost of ticks.

With `--many`, `sluice up` runs this many inlets besides the shipped flows, in a copy of this checkout or of another one with its own
`.venv`, such as a `git worktree` of an earlier version.
"""

import argparse
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import mean, median
from uuid import UUID

import psutil
from prefect.client.orchestration import SyncPrefectClient

from benchmarks.many import measure_many
from deployments.servers.ledger import flow_run_processes
from deployments.servers.prefect_server import prefect_server, settings_of_own_server, wait_for_server, worker
from deployments.servers.redis_server import RedisServer

ROOT = Path(__file__).parents[1]
EVERY = ("1s", "60s")
RUNS_A_DAY, DAYS_KEPT = 1_440, 3
# Seconds of a run's life between which its CPU is compared: it has started and is not yet relieved.
FROM, UPTO = 15.0, 50.0
_SECRET = "of-the-benchmarks"  # noqa: S105 - for a Prefect server of the benchmark's own

Samples = dict[UUID, list[tuple[float, float]]]


@contextmanager
def stack(folder: Path, redis_url: str) -> Iterator[dict[str, str]]:
    """Yield the environment of a Prefect server and a worker with the two deployments."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = settings_of_own_server(folder / "prefect", port, secret=_SECRET)
    env |= {"SLUICE_REDIS_URL": redis_url, "SLUICE_STATE_DIR": str(folder), "PWD": str(ROOT), "PYTHONPATH": str(ROOT)}
    server = prefect_server(port, log=folder / "server.log", env=env, cwd=ROOT)
    runs = worker(log=folder / "worker.log", env=env, cwd=ROOT)

    def prefect(*arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "prefect", "--no-prompt", *arguments], env=env, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)  # noqa: S603  # fmt: skip

    try:
        server.start()
        wait_for_server(env["PREFECT_API_URL"], server)
        prefect("work-pool", "create", "sluice", "--type", "process")
        for n, every in enumerate(EVERY):
            prefect(
                "deploy", "flows/clock.py:seconds", "--name", every, "--pool", "sluice", "--interval", "60",
                "--anchor-date", f"2026-01-01T00:00:{30 * n:02}+00:00", "--param", f"every={every}", "--param", f"topic=every-{every}",
                "--job-variable", "command=python -m deployments.processes.run", "--concurrency-limit", "3", "--collision-strategy", "CANCEL_NEW",
            )  # fmt: skip
        runs.start()
        yield env
    finally:
        runs.kill()
        for _, process in flow_run_processes(folder):
            process.kill()
        server.kill()


def rows(database: Path) -> dict[str, int]:
    """Return the number of rows of each table, without scheduled runs, which stay for hours."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found = {name: db.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in names}  # noqa: S608
        waiting = "SELECT id FROM flow_run WHERE state_type = 'SCHEDULED'"
        found["flow_run"] -= db.execute(f"SELECT count(*) FROM ({waiting})").fetchone()[0]  # noqa: S608
        states = f"SELECT count(*) FROM flow_run_state WHERE flow_run_id IN ({waiting})"  # noqa: S608
        found["flow_run_state"] -= db.execute(states).fetchone()[0]
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
    return found | {"bytes": pages * size}


def watch(folder: Path, seconds: float) -> Samples:
    """Return the age and the CPU seconds of each flow run's process, once a second."""
    found: Samples = defaultdict(list)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for run, process in flow_run_processes(folder):
            try:
                spent, age = process.cpu_times(), time.time() - process.create_time()
            except psutil.Error:
                continue
            found[run].append((age, spent.user + spent.system))
        time.sleep(1)
    return found


def rates(samples: Samples, client: SyncPrefectClient) -> dict[str, list[float]]:
    """Return by deployment the share of a core that its runs took between their start and their relief."""
    found: dict[str, list[float]] = defaultdict(list)
    for run, points in samples.items():
        within = [point for point in points if FROM <= point[0] <= UPTO]
        deployment = client.read_flow_run(run).deployment_id
        if deployment and len(within) > (UPTO - FROM) / 2:
            (began, before), (ended, after) = within[0], within[-1]
            found[client.read_deployment(deployment).name].append((after - before) / (ended - began))
    return found


def main() -> None:
    """Measure the overhead and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inlets", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="for how long to look, after the start")
    parser.add_argument("--many", type=int, metavar="N", help="run N inlets beside what ships, with all of `sluice up`")
    parser.add_argument("--checkout", type=Path, default=ROOT, help="with --many: the checkout to run")
    options = parser.parse_args()
    if options.many:
        print(measure_many(options.checkout.resolve(), options.many, options.minutes))
        return
    with tempfile.TemporaryDirectory() as name, RedisServer(Path(name) / "redis") as redis:
        folder = Path(name)
        with stack(folder, redis.url) as env, SyncPrefectClient(env["PREFECT_API_URL"], auth_string=_SECRET) as client:
            database = folder / "prefect" / "prefect.db"
            watch(folder, 120)
            before = rows(database)
            samples = watch(folder, 60 * options.minutes)
            after = rows(database)
            shares = rates(samples, client)
    runs = after["flow_run"] - before["flow_run"]
    grown = {table: n - before.get(table, 0) for table, n in after.items() if n != before.get(table, 0)}
    size = grown.pop("bytes", 0)
    print(f"{os.cpu_count()} cores; {runs} runs in {options.minutes:g} minutes")
    for table, n in sorted(grown.items(), key=lambda one: -one[1]):
        print(f"  {table}: {n} rows, {n / runs:.1f} a run")
    a_run = sum(grown.values()) / runs
    print(f"  together {a_run:.1f} a run, {a_run * RUNS_A_DAY:,.0f} a day for each inlet, {a_run * RUNS_A_DAY * DAYS_KEPT:,.0f} kept; {size / runs / 1000:.1f} kB a run")  # fmt: skip
    for every in EVERY:
        print(f"  a tick every {every}: median {median(shares[every]):.2%}, mean {mean(shares[every]):.2%} of a core ({len(shares[every])} runs)")  # fmt: skip
    print(f"  the ticks: {median(shares['1s']) - median(shares['60s']):.2%} of a core")


if __name__ == "__main__":
    main()
