"""`sluice up`: run the whole project on one machine until Ctrl-C."""

import logging
import math
import os
import shlex
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

from rich.console import Console
from rich.text import Text

from deployments.metrics.exporter import Exporter
from deployments.servers.ledger import Ledger
from deployments.servers.login import secret_file
from deployments.servers.prefect_server import answers
from deployments.stack.guardian import Guardian
from deployments.stack.interrupts import Interrupts
from deployments.stack.setting import Setting
from deployments.stack.stack import Stack
from tasks.errors import SettingsError
from tasks.reservoir.connection import connect
from tasks.settings import REDIS_URL, metrics_port, without_password

__all__ = ["up"]

logger = logging.getLogger(__name__)

_SHOWN = 4  # topics, at most: so many tables fit on a screen
_SWEEP_AGAIN = 10.0  # seconds
# Seconds for the runs to finish entries in flight; the rest of the 15 s that a stop may take is for the servers. Entries
# that an outlet has not finished by then are redelivered to its next run.
_GRACE = 8.0
_GRACE_ALONE = 5.0  # without the server, because finished runs would wait for it


def up(console: Console, setting: Setting) -> int:
    """Start the servers that are not configured, deploy `prefect.yaml`, run all outlets, and follow results until Ctrl-C.

    Then cancel the runs, wait until they have finished the entries in flight, and stop everything that was started here.
    A second Ctrl-C stops at once.

    returns   the exit code: 0, or 130 after a second Ctrl-C
    raises    SluiceError: something did not start; everything that was started has been stopped
    """
    is_stopping = False
    metrics_port()  # refuses a bad setting before anything is started

    def say(line: str) -> None:
        try:
            console.print(line, style="dim", highlight=False, soft_wrap=True, markup=False)
        except OSError:  # the terminal was closed
            pass
        except SystemExit:  # rich raises it at a closed pipe: a reason to stop, but not to abort a stop
            if not is_stopping:
                raise

    ledger = Ledger(setting.folder)
    with ledger.held(), Guardian(ledger.folder, os.getpid(), cwd=setting.root), Interrupts() as interrupts:
        stack = Stack(setting, ledger, say=say)
        try:
            _run(stack, console, say)
        except KeyboardInterrupt:
            pass
        finally:
            is_stopping = True
            interrupts.disarm()
            began, has_started = time.monotonic(), stack.has_started
            _stop(stack, say, interrupts)
            if has_started:
                say(f"stopped in {time.monotonic() - began:.1f} s; the data stays in {ledger.folder}")
    return 130 if interrupts.impatient() else 0


def _run(stack: Stack, console: Console, say: Callable[[str], None]) -> None:
    began = time.monotonic()
    say(f"starting {stack.missing} ...")
    stack.start()

    # Prefect reads its settings when it is imported: start() has put them into the environment.
    from httpx import HTTPError  # noqa: PLC0415
    from prefect.client.orchestration import get_client  # noqa: PLC0415
    from prefect.exceptions import ObjectNotFound  # noqa: PLC0415
    from redis.exceptions import RedisError  # noqa: PLC0415

    from deployments.rollout import runs  # noqa: PLC0415
    from deployments.rollout.deployed import of_blueprint, result_topics  # noqa: PLC0415
    from deployments.stack.follow import Follower  # noqa: PLC0415
    from flows.runtime.poll_turn import PollTurn  # noqa: PLC0415
    from flows.runtime.prefect_api import impatient_client  # noqa: PLC0415
    from flows.runtime.shared_poll import SharedPoll  # noqa: PLC0415
    from tasks.reservoir import Reservoir  # noqa: PLC0415

    with get_client(sync_client=True) as client:
        stack.deploy(client)
        waiting = runs.to_start(client, stack.blueprint)
        outlets = [there for declared, there in of_blueprint(client, stack.blueprint) if declared.stays_up]
    topics = result_topics(outlets)[:_SHOWN]
    ending = ExitStack()
    exporter = _exporter(stack, say)
    if exporter:
        ending.enter_context(exporter)
    _welcome(stack, console, time.monotonic() - began, metrics=exporter.url if exporter else "off")
    reservoir = Reservoir.from_url(stack.env[REDIS_URL])
    poll = SharedPoll(reservoir.client, name="sluice up")
    sweep_at = math.inf
    with (
        ending,
        # Prefect's own retries would delay the restart of a dead server by a minute.
        impatient_client() as client,
        PollTurn(poll, logger, client) as turn,  # each run takes turns; here also while none runs
        Follower(console, client, reservoir, topics=topics, outlets={each.id for each in outlets}) as follower,
    ):
        while True:
            if stack.worker and stack.worker.name in stack.tend():
                sweep_at = 0.0
            # A server does not answer: tend() restarts our own, others come back. Or an object was deleted in between.
            with suppress(HTTPError, ObjectNotFound):
                if time.monotonic() >= sweep_at:
                    is_clean = stack.sweep(client, orphans=False)
                    waiting = runs.to_start(client, stack.blueprint)
                    sweep_at = math.inf if is_clean else time.monotonic() + _SWEEP_AGAIN
                if waiting:  # one a second: each start takes 3 s of CPU, and the first should be ready first
                    runs.start_first(client, waiting)
            with suppress(HTTPError, RedisError, ObjectNotFound):
                follower.step()
            with suppress(RedisError):
                turn.step()
            time.sleep(1)


def _stop(stack: Stack, say: Callable[[str], None], interrupts: Interrupts) -> None:
    if stack.worker and stack.worker.running:
        from flows.runtime.prefect_api import impatient_client  # noqa: PLC0415

        say("stopping: the runs finish what is in flight (Ctrl-C again: at once) ...")
        try:
            interrupts.arm()  # a second Ctrl-C ends the waiting
            try:
                if stack.own_server and not answers(stack.api_url):
                    say("the Prefect server does not answer; the runs' processes are stopped without it")
                    stack.end_processes(grace=_GRACE_ALONE)
                else:
                    with impatient_client() as client:
                        stack.end_runs(client, timeout=_GRACE)
            except Exception as error:  # noqa: BLE001 - the processes must end after any error
                say(f"could not cancel the runs ({type(error).__name__}); their processes are stopped all the same")
                stack.end_processes(grace=_GRACE_ALONE)
        except KeyboardInterrupt:
            say("stopping at once")
        finally:
            interrupts.disarm()
    stack.stop(hurry=interrupts.impatient)


def _exporter(stack: Stack, say: Callable[[str], None]) -> Exporter | None:
    """Return the exporter of metrics, unless it is switched off or its port is taken, as by another stack of this machine."""
    port, url = metrics_port(), stack.env[REDIS_URL]
    if port is None:
        return None
    try:
        return Exporter(lambda: connect(url, retries=1), host="127.0.0.1", port=port)
    except SettingsError as error:
        say(str(error))
        return None


def _welcome(stack: Stack, console: Console, seconds: float, *, metrics: str) -> None:
    url = without_password(stack.api_url).removesuffix("/api")
    console.print(Text.assemble((f"{len(stack.blueprint.deployments)} deployments", "bold"), f" after {seconds:.0f} s"))
    console.print(f"  Prefect UI  {url}", highlight=False)
    console.print(f"  Redis       {without_password(stack.env[REDIS_URL])}", highlight=False, soft_wrap=True)
    console.print(f"  metrics     {metrics}", highlight=False, soft_wrap=True)
    console.print(f"  logs        {stack.folder / 'logs'}", highlight=False, soft_wrap=True)
    if stack.own_server:
        console.print(f"  login       with what is in {secret_file(stack.folder)}", highlight=False, soft_wrap=True)
    if stack.own_server and not stack.is_offered:
        named = shlex.quote(str(secret_file(stack.folder)))
        setting = f'export PREFECT_API_URL={stack.api_url} PREFECT_API_AUTH_STRING="$(cat {named})"'
        console.print(f"  for `prefect` in another shell: {setting}", highlight=False, soft_wrap=True)
