"""The steps of `sluice up`: start the servers, deploy `prefect.yaml`, mark lost runs, end the runs, stop."""

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from deployments.rollout.blueprint import EntrypointCheck, read_blueprint
from deployments.servers import login
from deployments.servers.ledger import Ledger, flow_run_processes, is_alive
from deployments.servers.old_names import rename_deployments
from deployments.servers.prefect_server import check_port, is_reachable, wait_for_server
from deployments.stack.children import Children
from deployments.stack.setting import Setting
from tasks.errors import SettingsError, UnavailableError
from tasks.settings import without_password

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient

    from deployments.rollout.blueprint import Blueprint

__all__ = ["Stack"]

_MOVE_SECONDS = 60.0  # for the runs of a deployment with an old name to end, on a server of the user's own


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
        self._setting = setting
        self._paused = self.folder / "pool-paused"  # exists if the last stop paused the pool
        self._unswept = 0
        self.own_server = setting.own_server
        self.own_redis = setting.own_redis
        self.env = setting.env
        login.withdraw(root, self.folder)  # left by a killed stack
        self._secret = login.make_secret(self.folder) if self.own_server else ""
        self.is_offered = False
        """Whether `prefect` in the checkout finds the server without settings."""
        self.children = Children(setting, ledger, say=say)
        self.blueprint: Blueprint = read_blueprint(root / "prefect.yaml")

    @property
    def missing(self) -> str:
        """The servers to start here, as text."""
        servers = ["Redis"] if self.own_redis else []
        servers += ["a Prefect server"] if self.own_server else []
        return f"{', '.join(servers)} and a worker" if servers else "a worker"

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
            check_port(self._setting.port)
            self._rename_deployments()
        self.children.start_servers()
        check = EntrypointCheck(self.blueprint, env=self.env, is_forked=True)
        try:
            if redis := self.children.redis:
                redis.wait_until_ready()
            os.environ.update(self.env)  # before Prefect is imported, because it reads its settings then
            if server := self.children.server:
                wait_for_server(self.api_url, server)
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
        from deployments.rollout import moving, pool_ending  # noqa: PLC0415 - imports Prefect, see start()

        rollout.ensure_pool(client)
        self.children.start_probe()
        if self._paused.exists():
            rollout.pause_pool(client, paused=False)
            self._paused.unlink()
        self.sweep(client)
        if late := pool_ending.discard_late(client, self.blueprint):
            self.say(f"discarded {late} scheduled run{'s' * (late != 1)} whose time had passed")
        deployment = rollout.Rollout(
            self.blueprint, log=self.children.logs / "deploy.log", env=self.env, is_forked=True
        )
        try:
            self.children.start_worker()
            rollout.ensure_automations(client)
            deployment.result()
        finally:
            deployment.close()
        moving.move_old_names(client, self.blueprint, timeout=_MOVE_SECONDS, say=self.say)
        for line in rollout.tidy_up(client, self.blueprint):
            self.say(line)

    def sweep(self, client: "SyncPrefectClient", *, orphans: bool = True) -> bool:
        """Mark runs without a process as crashed; on a server of the user's own, the automation does that within 90 s.

        orphans   see `pool_ending.sweep`
        returns   whether all such runs were marked
        """
        from deployments.rollout import pool_ending  # noqa: PLC0415 - imports Prefect, see start()

        if not self.own_server:
            return True
        swept, left = pool_ending.sweep(client, alive={run_id for run_id, _ in flow_run_processes()}, orphans=orphans)
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
        from deployments.rollout import pool_ending  # noqa: PLC0415 - imports Prefect, see start()

        unwatched = self.children.unwatched
        alive = {run_id: process for run_id, process in unwatched.items() if is_alive(process)}
        gone = unwatched.keys() - alive
        if not (gone and self.own_server and pool_ending.sweep(client, alive=(), among=gone)[1]):
            self.children.unwatched = alive

    def end_runs(self, client: "SyncPrefectClient", *, timeout: float) -> None:
        """End the runs, let them finish entries in flight, stop the worker, and give every run a final state.

        On a server of the user's own, only runs whose processes belong to this stack.
        """
        from prefect.states import Cancelled  # noqa: PLC0415 - see start()

        from deployments.rollout import apply as rollout  # noqa: PLC0415
        from deployments.rollout import pool_ending  # noqa: PLC0415
        from flows.runtime.prefect_api import when_not_busy  # noqa: PLC0415

        seen: set[UUID] = set()

        def ours() -> set["UUID"]:
            seen.update(run_id for run_id, _ in flow_run_processes(self.folder))
            return seen  # a process can end before its run has its final state

        if self.own_server and when_not_busy(
            lambda: rollout.pause_pool(client, paused=True)
        ):  # otherwise the worker starts runs that become due
            self._paused.touch()
        left = pool_ending.cancel(
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
        if worker := self.children.worker:
            worker.stop(grace=0 if left else 2)
        self._ledger.end_flows(grace=0 if left else 1)
        state = Cancelled(message="`sluice up` stopped.")
        pool_ending.sweep(
            client, alive=(), among=None if self.own_server else seen, state=state, until=time.monotonic() + 2
        )

    def end_processes(self, *, grace: float) -> None:
        """Send the runs' processes SIGTERM, and SIGKILL after `grace` seconds; used if the Prefect server does not answer."""
        self._ledger.end_flows(grace=grace)

    def stop(self, *, hurry: Callable[[], bool]) -> None:
        """Stop everything that was started here, and nothing else: runs that `end_runs` has left, then the servers."""
        self.children.stop(hurry=hurry)
        login.withdraw(self.root, self.folder)
        self._ledger.forget()

    def _rename_deployments(self) -> None:
        named = [(each.entrypoint, each.name) for each in self.blueprint.deployments]
        if renamed := rename_deployments(self.folder / "prefect", named):
            self.say(
                f"renamed deployments, which are called as their flows now: {', '.join(renamed)}; old names go on working"
            )

    @staticmethod
    def _result(check: EntrypointCheck) -> "Blueprint":
        try:
            return check.result()
        except SettingsError as error:
            msg = f"nothing was deployed: {error}"
            raise SettingsError(msg) from error
