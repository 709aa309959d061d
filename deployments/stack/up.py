"""`sluice up`: run the whole project on one machine until Ctrl-C."""

import logging
import math
import os
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

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
from tasks.base.plain_text import error_line
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


def up(console: Console, setting: Setting, *, quiet: bool = False) -> int:
    """Start the servers that are not configured, deploy `prefect.yaml`, run all outlets, and follow results until Ctrl-C.

    Then cancel the runs, wait until they have finished the entries in flight, and stop everything that was started here.
    A second Ctrl-C stops at once.

    quiet     show no results
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
            _run(stack, console, say, quiet=quiet)
        except KeyboardInterrupt:
            pass
        finally:
            is_stopping = True
            interrupts.disarm()
            began, has_started = time.monotonic(), stack.children.have_started
            _stop(stack, say, interrupts)
            if has_started:
                say(f"stopped in {time.monotonic() - began:.1f} s; the data stays in {ledger.folder}")
    return 130 if interrupts.impatient() else 0


def _run(stack: Stack, console: Console, say: Callable[[str], None], *, quiet: bool) -> None:
    began = time.monotonic()
    say(f"starting {stack.missing} ...")
    stack.start()

    # Prefect reads its settings when it is imported: start() has put them into the environment.
    from prefect.client.orchestration import get_client  # noqa: PLC0415

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
    addresses = _addresses(stack, metrics=exporter.url if exporter else "off")
    _welcome(stack, console, time.monotonic() - began, addresses)
    reservoir = Reservoir.from_url(stack.env[REDIS_URL])
    poll = SharedPoll(reservoir.client, name="sluice up")
    sweep_at = math.inf
    with (
        ending,
        # Prefect's own retries would delay the restart of a dead server by a minute.
        impatient_client() as client,
        PollTurn(poll, logger, client) as turn,  # each run takes turns; here also while none runs
        Follower(
            console,
            client,
            reservoir,
            topics=topics,
            addresses=addresses,
            quiet=quiet,
            outlets={each.id for each in outlets},
        ) as follower,
    ):
        attempt = _Attempts(say)

        def start_waiting() -> None:
            nonlocal waiting, sweep_at
            if time.monotonic() >= sweep_at:
                is_clean = stack.sweep(client, orphans=False)
                waiting = runs.to_start(client, stack.blueprint)
                sweep_at = math.inf if is_clean else time.monotonic() + _SWEEP_AGAIN
            if waiting:  # one a second: each start takes 3 s of CPU, and the first should be ready first
                runs.start_first(client, waiting)

        while True:
            with attempt("looking after the servers"):
                died = stack.children.tend()
                if (worker := stack.children.worker) and worker.name in died:
                    sweep_at = 0.0
            with attempt("starting runs"):
                stack.sweep_unwatched(client)
                start_waiting()
            with attempt("showing changes and results"):
                follower.step()
            with attempt("looking for inlets without a run"):
                turn.step()
            time.sleep(1)


class _Attempts:
    """Parts of the loop, of which none may end `sluice up`: each is tried again a second later."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._failing: set[str] = set()

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """Run one part; print its first failure in a row, except that of a server that does not answer."""
        from httpx import HTTPError  # noqa: PLC0415 - with Prefect, see _run
        from prefect.exceptions import ObjectNotFound  # noqa: PLC0415
        from redis.exceptions import RedisError  # noqa: PLC0415

        try:
            yield
        except (HTTPError, RedisError, ObjectNotFound):
            pass  # tend() restarts our own servers, others come back; or an object was deleted in between
        except Exception as error:  # noqa: BLE001 - such as a module that was edited while this runs
            if what not in self._failing:
                self._say(f"{what} failed ({error_line(error)}); everything else continues, and it is tried again")
            self._failing.add(what)
        else:
            self._failing.discard(what)


def _stop(stack: Stack, say: Callable[[str], None], interrupts: Interrupts) -> None:
    if (worker := stack.children.worker) and worker.running:
        from flows.runtime.prefect_api import impatient_client  # noqa: PLC0415

        say("stopping: the runs finish entries in flight (Ctrl-C again: at once) ...")
        try:
            interrupts.arm()  # a second Ctrl-C ends the waiting
            try:
                if stack.own_server and not answers(stack.api_url):
                    say("the Prefect server does not answer; the runs' processes are stopped without it")
                    stack.end_processes(grace=_GRACE_ALONE)
                else:
                    with impatient_client() as client:
                        stack.end_runs(client, timeout=_GRACE)
            except Exception as error:  # the processes must end after any error
                if interrupts.impatient():  # pydantic 2 raises an error of its own where a signal interrupts it
                    raise KeyboardInterrupt from error
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


def _addresses(stack: Stack, *, metrics: str) -> list[str]:
    """Return lines with the addresses of all servers and files."""
    lines = [
        f"  Prefect UI  {without_password(stack.api_url).removesuffix('/api')}",
        f"  Redis       {without_password(stack.env[REDIS_URL])}",
        f"  metrics     {metrics}",
        f"  logs        {stack.folder / 'logs'}",
    ]
    if stack.own_server:
        lines.append(f"  login       with the text in {secret_file(stack.folder)}")
    return lines


def _welcome(stack: Stack, console: Console, seconds: float, addresses: list[str]) -> None:
    console.print(Text.assemble((f"{len(stack.blueprint.deployments)} deployments", "bold"), f" after {seconds:.0f} s"))
    if not console.is_terminal:  # there they stay in view
        for line in addresses:
            console.print(line, highlight=False, soft_wrap=True)
    if stack.own_server and not stack.is_offered:
        named = shlex.quote(str(secret_file(stack.folder)))
        setting = f'export PREFECT_API_URL={stack.api_url} PREFECT_API_AUTH_STRING="$(cat {named})"'
        console.print(f"  for `prefect` in another shell: {setting}", highlight=False, soft_wrap=True)
