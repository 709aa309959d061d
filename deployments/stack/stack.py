"""Start, supervise and stop the servers of one machine: Redis, Prefect and a worker."""

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from deployments.rollout.blueprint import EntrypointCheck, read_blueprint
from deployments.servers import login
from deployments.servers.busy import Busy, cpu_of_program
from deployments.servers.child import Child, last_lines
from deployments.servers.ledger import Ledger, flow_run_processes, is_alive
from deployments.servers.prefect_server import (
    answers,
    check_port,
    is_reachable,
    prefect_server,
    wait_for_server,
    worker,
)
from deployments.servers.redis_binary import REDIS_SERVER
from deployments.servers.redis_server import RedisServer
from deployments.stack.restarts import Restarts
from deployments.stack.setting import Setting
from tasks.base.state_folder import make_private
from tasks.errors import SettingsError, SluiceError, UnavailableError
from tasks.reservoir.connection import connect
from tasks.settings import REDIS_URL, local_socket, without_password

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
    from psutil import Process

    from deployments.rollout.blueprint import Blueprint
    from deployments.servers.probe import WriteProbe

__all__ = ["Stack"]

_PATIENCE_WITH_A_BUSY_SERVER = 180.0  # seconds without a write


class Stack:
    """The servers of one `sluice up`.

    setting   what to start, and with which environment
    ledger    the ledger of the state folder, held by the caller
    say       prints a line for the user
    """

    def __init__(self, setting: Setting, ledger: Ledger, *, say: Callable[[str], None]) -> None:
        self.root = root = setting.root
        self.folder = ledger.folder
        self.say = say
        self._ledger = ledger
        self._port = setting.port
        self._logs = self.folder / "logs"
        self._paused = self.folder / "pool-paused"  # exists if the last stop paused the pool
        self._unswept = 0
        self._restarts = Restarts()
        self._unwatched: dict[UUID, Process] = {}
        self.own_server = setting.own_server
        self.own_redis = setting.own_redis
        self.env = setting.env
        login.withdraw(root, self.folder)  # left by a killed stack
        self._secret = login.make_secret(self.folder) if self.own_server else ""
        self.is_offered = False
        """Whether `prefect` in the checkout finds the server without settings."""
        self.redis: RedisServer | None = None
        self.server: Child | None = None
        self.worker: Child | None = None
        self._probe: WriteProbe | None = None
        self._busy = Busy(self._cpu_of_server)
        self.blueprint: Blueprint = read_blueprint(root / "prefect.yaml")

    @property
    def missing(self) -> str:
        """The servers to start here, as text."""
        servers = ["Redis"] if self.own_redis else []
        servers += ["a Prefect server"] if self.own_server else []
        return f"{', '.join(servers)} and a worker" if servers else "a worker"

    @property
    def has_started(self) -> bool:
        """Whether anything was started here."""
        return any(self._pids)

    @property
    def api_url(self) -> str:
        """The address of the Prefect server."""
        return self.env["PREFECT_API_URL"]

    def start(self) -> None:
        """Start Redis and the Prefect server, check the flows in parallel, and wait for all three.

        raises    SettingsError, UnavailableError: in one sentence; the caller stops the servers that were started
        """
        if ended := self._ledger.end_orphans():
            self.say(f"ended {ended} process{'es' * (ended != 1)} that a killed `sluice up` had left behind")
        if self.own_server:
            check_port(self._port)
        make_private(self._logs)
        self._start_redis()
        if self.own_server:
            log = self._logs / "prefect-server.log"
            self.server = prefect_server(self._port, log=log, env=self.env, cwd=self.root, is_forked=True)
            self.server.start()
        self._record()
        check = EntrypointCheck(self.blueprint, env=self.env, is_forked=True)
        try:
            if self.redis:
                self.redis.wait_until_ready()
            os.environ.update(self.env)  # before Prefect is imported, because it reads its settings then
            if self.server:
                wait_for_server(self.api_url, self.server)
                self.is_offered = login.offer(self.root, self.folder, self.api_url, self._secret)
            elif not is_reachable(self.api_url):
                msg = f"no Prefect server answers at PREFECT_API_URL ({without_password(self.api_url)}); start it, or unset the variable"
                raise UnavailableError(msg)
            self.blueprint = self._result(check)
        finally:
            check.close()

    def deploy(self, client: "SyncPrefectClient") -> None:
        """Clean up runs that a killed stack left on the server, deploy `prefect.yaml`, and start the worker."""
        from deployments.rollout import apply as rollout  # noqa: PLC0415 - imports Prefect, see start()
        from deployments.rollout import runs  # noqa: PLC0415 - imports Prefect, see start()
        from deployments.servers.probe import WriteProbe  # noqa: PLC0415

        rollout.ensure_pool(client)
        if self.server:
            self._probe = WriteProbe()
            self._probe.start()
        if self._paused.exists():
            rollout.pause_pool(client, paused=False)
            self._paused.unlink()
        self.sweep(client)
        if late := runs.discard_late(client, self.blueprint):
            self.say(f"discarded {late} scheduled run{'s' * (late != 1)} whose time had passed")
        deployment = rollout.Rollout(self.blueprint, log=self._logs / "deploy.log", env=self.env, is_forked=True)
        try:
            self.worker = worker(log=self._logs / "worker.log", env=self.env, cwd=self.root, is_forked=True)
            self.worker.start()
            self._record()
            rollout.ensure_automations(client)
            deployment.result()
        finally:
            deployment.close()
        rollout.spread_schedules(client, self.blueprint)
        for cleared in rollout.clear_schedules(client, self.blueprint):
            self.say(f"cleared a schedule that prefect.yaml no longer has: {cleared}")
        for stranger in rollout.strangers(client, self.blueprint):
            self.say(
                f"{stranger} is deployed but not in prefect.yaml; cancel its runs, if it has any, and "
                f"`prefect deployment delete {stranger}`"
            )

    def sweep(self, client: "SyncPrefectClient", *, orphans: bool = True) -> bool:
        """Mark runs without a process as crashed; on a server of the user's own, the automation does that within 90 s.

        orphans   see `runs.sweep`
        returns   whether all such runs were marked
        """
        from deployments.rollout import runs  # noqa: PLC0415 - imports Prefect, see start()

        if not self.own_server:
            return True
        swept, left = runs.sweep(client, alive={run_id for run_id, _ in flow_run_processes()}, orphans=orphans)
        if swept:
            self.say(f"marked {swept} run{'s' * (swept != 1)} without a process as crashed")
        if left and left != self._unswept:
            self.say(
                f"{left} run{'s' * (left != 1)} without a process cannot be marked yet: Prefect's server is slow, or fails for "
                "some minutes, as at a run whose deployment was deleted"
            )
        self._unswept = left
        return not left

    def sweep_unwatched(self, client: "SyncPrefectClient") -> None:
        """Mark runs of a killed worker as crashed if their processes have ended since without a final state."""
        from deployments.rollout import runs  # noqa: PLC0415 - imports Prefect, see start()

        alive = {run_id: process for run_id, process in self._unwatched.items() if is_alive(process)}
        gone = self._unwatched.keys() - alive
        if not (gone and self.own_server and runs.sweep(client, alive=(), among=gone)[1]):
            self._unwatched = alive

    def tend(self) -> list[str]:
        """Restart the children that have ended, and return the names of those that were started; print why and when."""
        died = []
        if self.server and self.server.running and self._probe and self._is_blocked(self._probe):
            self.say(f"no write has got through to the {self.server.name} for {self._probe.silent:.0f} s; stopping it")
            self.server.stop(grace=5)
        for child, restart in (
            (self.redis and self.redis.child, self._start_redis_again),
            (self.server, self._start_server_again),
            (self.worker, self._start_worker_again),
        ):
            if child is None or child.running:
                continue
            if self._restarts.is_new(child.name):
                wait = self._restarts.ended(child.name)
                how = f" in {wait:.0f} s; the last lines of {child.log}:\n{last_lines(child.log, 5)}" if wait else ""
                self.say(f"{child.name} ended (exit code {child.exit_code}); starting it again{how}")
            if not self._restarts.take(child.name):
                continue
            child.kill()  # the rest of its process group
            try:
                restart()
            except (SluiceError, OSError) as error:
                self.say(
                    f"{child.name} did not start ({error}); starting it again in {self._restarts.ended(child.name):.0f} s"
                )
            else:
                died.append(child.name)
        if died:
            self._record()
        return died

    def _is_blocked(self, probe: "WriteProbe") -> bool:
        """Return whether the server takes no writes; while it works, because others keep the machine busy, be patient."""
        if not probe.is_stuck:
            self._busy.reset()
            return False
        return self._busy.is_idle() or probe.silent > _PATIENCE_WITH_A_BUSY_SERVER

    def _cpu_of_server(self) -> float | None:
        words = ("deployments.servers.serve", str(self._port))
        return cpu_of_program(words, self.server.pid if self.server else None)

    def end_runs(self, client: "SyncPrefectClient", *, timeout: float) -> None:
        """End the runs, let them finish entries in flight, stop the worker, and give every run a final state.

        On a server of the user's own, only runs whose processes belong to this stack.
        """
        from prefect.states import Cancelled  # noqa: PLC0415 - see start()

        from deployments.rollout import apply as rollout  # noqa: PLC0415
        from deployments.rollout import runs  # noqa: PLC0415
        from flows.runtime.prefect_api import when_not_busy  # noqa: PLC0415

        seen: set[UUID] = set()

        def ours() -> set["UUID"]:
            seen.update(run_id for run_id, _ in flow_run_processes(self.folder))
            return seen  # a process can end before its run has its final state

        if self.own_server and when_not_busy(
            lambda: rollout.pause_pool(client, paused=True)
        ):  # otherwise the worker starts runs that become due
            self._paused.touch()
        left = runs.cancel(
            client,
            None if self.own_server else ours,
            processes=lambda: {run_id for run_id, _ in flow_run_processes(self.folder)},
            stop=self._ledger.stop_flows,
            kill=self._ledger.kill_flows,
            timeout=timeout,
        )
        if left:
            self.say(f"{left} run{'s' * (left != 1)} did not end in time")
        # No further patience after runs that were given their time: the whole stop aims at 15 s.
        if self.worker:
            self.worker.stop(grace=0 if left else 2)
        self._ledger.end_flows(grace=0 if left else 1)
        state = Cancelled(message="`sluice up` stopped.")
        runs.sweep(client, alive=(), among=None if self.own_server else seen, state=state, until=time.monotonic() + 2)

    def end_processes(self, *, grace: float) -> None:
        """Send the runs' processes SIGTERM, and SIGKILL after `grace` seconds; used if the Prefect server does not answer."""
        self._ledger.end_flows(grace=grace)

    def stop(self, *, hurry: Callable[[], bool]) -> None:
        """Stop everything that was started here, and nothing else: runs that `end_runs` has left, then the servers."""
        if self._probe:
            self._probe.stop()
        if self.worker:
            self.worker.stop(grace=0, hurry=hurry)
        self._ledger.end_flows(grace=0)
        if self.server:
            self.server.stop(grace=3 if answers(self.api_url, timeout=1) else 0, hurry=hurry)
        if self.redis:
            self.redis.stop(hurry=hurry)
        login.withdraw(self.root, self.folder)
        self._ledger.forget()

    @staticmethod
    def _result(check: EntrypointCheck) -> "Blueprint":
        try:
            return check.result()
        except SettingsError as error:
            msg = f"nothing was deployed: {error}"
            raise SettingsError(msg) from error

    def _start_redis(self) -> None:
        if not self.own_redis:
            connect(self.env[REDIS_URL]).close()
            return
        self.redis = RedisServer(self.folder / "redis", socket=local_socket(), log=self._logs / "redis.log", tied=False)
        binary = self.redis.launch()
        if not binary.is_bundled:
            self.say(f"the reservoir is {binary}, {binary.path}, as {REDIS_SERVER} asks")

    def _start_redis_again(self) -> None:
        if self.redis:
            self.redis.start()

    def _start_server_again(self) -> None:
        # No waiting: streams run without it, and if it cannot start, it ends, and that death is counted.
        if self.server:
            self.server.start()
        if self._probe:
            self._probe.reset()

    def _start_worker_again(self) -> None:
        if self.worker:
            # Its runs go on, and see a cancel in the poll that all runs share. But nothing reports if one is killed.
            self._unwatched.update(flow_run_processes(self.folder))
            self.worker.start()

    def _record(self) -> None:
        self._ledger.record(self.api_url, self._pids, has_login=self.own_server)

    @property
    def _pids(self) -> list[int | None]:
        return [self.redis and self.redis.pid, self.server and self.server.pid, self.worker and self.worker.pid]
