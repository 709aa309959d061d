"""The child processes of `sluice up`: Redis, the Prefect server and the worker; those that die are started again."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from deployments.servers.busy import Busy, cpu_of_program
from deployments.servers.child import Child, last_lines
from deployments.servers.ledger import Ledger, flow_run_processes
from deployments.servers.prefect_server import answers, prefect_server, worker
from deployments.servers.redis_binary import REDIS_SERVER
from deployments.servers.redis_server import RedisServer
from deployments.stack.restarts import Restarts
from deployments.stack.setting import Setting
from tasks.base.state_folder import make_private
from tasks.errors import SluiceError
from tasks.reservoir.connection import connect
from tasks.settings import REDIS_URL, local_socket

if TYPE_CHECKING:
    from uuid import UUID

    from psutil import Process

    from deployments.servers.probe import WriteProbe

__all__ = ["Children"]

_PATIENCE_WITH_A_BUSY_SERVER = 180.0  # seconds without a write


class Children:
    """The child processes of one `sluice up`; a server that is configured elsewhere is not among them.

    setting   what to start, and with which environment
    ledger    records the processes, in case this one is killed
    say       prints a line for the user
    """

    def __init__(self, setting: Setting, ledger: Ledger, *, say: Callable[[str], None]) -> None:
        self.logs = ledger.folder / "logs"
        self.redis: RedisServer | None = None
        self.server: Child | None = None
        self.worker: Child | None = None
        self._setting = setting
        self._ledger = ledger
        self._say = say
        self._restarts = Restarts()
        self.unwatched: dict[UUID, Process] = {}
        """The runs of killed workers with their processes: if one is killed, nothing reports it to Prefect."""
        self._probe: WriteProbe | None = None
        self._busy = Busy(self._cpu_of_server)

    @property
    def have_started(self) -> bool:
        """Whether any was started."""
        return any(self._pids)

    def start_servers(self) -> None:
        """Start Redis and the Prefect server, without waiting until they answer.

        raises    SettingsError, UnavailableError: a configured Redis does not answer, or a server cannot be started
        """
        make_private(self.logs)
        if self._setting.own_redis:
            self.redis = RedisServer(
                self._ledger.folder / "redis", socket=local_socket(), log=self.logs / "redis.log", tied=False
            )
            binary = self.redis.launch()
            if not binary.is_bundled:
                self._say(f"the reservoir is {binary}, {binary.path}, as {REDIS_SERVER} asks")
        else:
            connect(self._setting.env[REDIS_URL]).close()
        if self._setting.own_server:
            self.server = prefect_server(
                self._setting.port,
                log=self.logs / "prefect-server.log",
                env=self._setting.env,
                cwd=self._setting.root,
                is_forked=True,
            )
            self.server.start()
        self._record()

    def start_probe(self) -> None:
        """Start to probe whether the Prefect server takes writes."""
        from deployments.servers.probe import WriteProbe  # noqa: PLC0415 - imports Prefect, which reads its settings then

        if self.server:
            self._probe = WriteProbe()
            self._probe.start()

    def start_worker(self) -> None:
        """Start the worker."""
        setting = self._setting
        self.worker = worker(log=self.logs / "worker.log", env=setting.env, cwd=setting.root, is_forked=True)
        self.worker.start()
        self._record()

    def tend(self) -> list[str]:
        """Restart the children that have ended, and return the names of those that were started; print why and when."""
        died = []
        if self.server and self.server.running and self._probe and self._is_blocked(self._probe):
            self._say(f"no write has got through to the {self.server.name} for {self._probe.silent:.0f} s; stopping it")
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
                self._say(f"{child.name} ended (exit code {child.exit_code}); starting it again{how}")
            if not self._restarts.take(child.name):
                continue
            child.kill()  # the rest of its process group
            try:
                restart()
            except (SluiceError, OSError) as error:
                self._say(
                    f"{child.name} did not start ({error}); starting it again in {self._restarts.ended(child.name):.0f} s"
                )
            else:
                died.append(child.name)
        if died:
            self._record()
        return died

    def stop(self, *, hurry: Callable[[], bool]) -> None:
        """Stop all: the worker and the processes of runs first, Redis last."""
        if self._probe:
            self._probe.stop()
        if self.worker:
            self.worker.stop(grace=0, hurry=hurry)
        self._ledger.end_flows(grace=0)
        if self.server:
            url = self._setting.env["PREFECT_API_URL"]
            self.server.stop(grace=3 if answers(url, timeout=1) else 0, hurry=hurry)
        if self.redis:
            self.redis.stop(hurry=hurry)

    def _is_blocked(self, probe: "WriteProbe") -> bool:
        """Return whether the server takes no writes; while it works, because others keep the machine busy, be patient."""
        if not probe.is_stuck:
            self._busy.reset()
            return False
        return self._busy.is_idle() or probe.silent > _PATIENCE_WITH_A_BUSY_SERVER

    def _cpu_of_server(self) -> float | None:
        words = ("deployments.servers.serve", str(self._setting.port))
        return cpu_of_program(words, self.server.pid if self.server else None)

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
            # Its runs continue, and notice a cancellation in the poll that all runs share.
            self.unwatched.update(flow_run_processes(self._ledger.folder))
            self.worker.start()

    def _record(self) -> None:
        self._ledger.record(self._setting.env["PREFECT_API_URL"], self._pids, has_login=self._setting.own_server)

    @property
    def _pids(self) -> list[int | None]:
        return [self.redis and self.redis.pid, self.server and self.server.pid, self.worker and self.worker.pid]
