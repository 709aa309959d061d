"""`sluice status`: the servers, the last run of each deployment, and the lag of each group; once or repeatedly."""

import itertools
import time
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from httpx import HTTPError
from redis.exceptions import RedisError
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from deployments.rollout.last_run import Deployed
from deployments.servers.ledger import Ledger
from deployments.servers.prefect_server import find_server, said_by
from deployments.show.as_json import level_object, line
from deployments.show.state import state_table
from deployments.show.tables import levels_table, printable, runs_table
from deployments.show.times import clock
from tasks.base.project_folder import up_command
from tasks.base.state_folder import state_dir
from tasks.errors import SluiceError, UnavailableError
from tasks.reservoir import Reservoir
from tasks.reservoir.connection import connect, in_words
from tasks.reservoir.levels import TopicLevel
from tasks.settings import redis_url, without_password
from tasks.state.inspection import KeptState, all_kept

__all__ = ["status"]

_EVERY = 2.0  # seconds between two polls
_PREFECT_EVERY = 3  # polls of Redis per poll of Prefect, which takes a request for each deployment


_NO_DEPLOYMENTS = "no deployments; `prefect deploy --all` brings those of prefect.yaml"


@dataclass(frozen=True, slots=True)
class PrefectStatus:
    """The Prefect server's part of a status; `error` is the reason if the server did not answer, else ''."""

    url: str = ""
    error: str = ""
    workers: tuple[str, ...] = ()
    deployments: tuple[Deployed, ...] = ()


@dataclass(frozen=True, slots=True)
class RedisStatus:
    """The part of a status from Redis; `error` is the reason if it did not answer, else ''."""

    url: str = ""
    error: str = ""
    topics: tuple[TopicLevel, ...] = ()
    states: tuple[KeptState, ...] = ()


@dataclass(frozen=True, slots=True)
class Status:
    """One poll of everything; `holder` is the process of `sluice up`, None if it does not run here."""

    folder: Path
    holder: int | None
    prefect: PrefectStatus
    redis: RedisStatus

    @property
    def is_well(self) -> bool:
        """Whether both servers answered."""
        return not (self.prefect.error or self.redis.error)


def status(console: Console, *, watch: bool = False, as_json: bool = False, partitions: bool = False) -> bool:
    """Print stack, deployments and topics; return whether both servers answered the last poll.

    partitions  also show each partition of a topic
    watch       poll every two seconds until Ctrl-C: redraws on a terminal, prints one status after another elsewhere
    """
    found = _poll()
    if not watch:
        _print(console, found, as_json=as_json, partitions=partitions)
        return found.is_well
    live = Live(console=console, auto_refresh=False) if console.is_terminal and not as_json else None
    with live or nullcontext(), suppress(KeyboardInterrupt):
        for n in itertools.count(1):
            if live:
                live.update(_drawn(found, console.width, is_watched=True, partitions=partitions), refresh=True)
            else:
                _print(console, found, as_json=as_json, partitions=partitions)
            time.sleep(_EVERY)
            found = _poll(None if n % _PREFECT_EVERY == 0 else found)
    return found.is_well


def _print(console: Console, found: Status, *, as_json: bool, partitions: bool) -> None:
    if as_json:
        print(line(_object(found, partitions=partitions)), flush=True)  # noqa: T201 - rich would wrap it
    else:
        console.print(_drawn(found, console.width, partitions=partitions))


def _poll(before: Status | None = None) -> Status:
    """Poll everything; with `before`, take over its part of Prefect."""
    ledger = Ledger(state_dir())
    holder, prefect = ledger.holder(), before.prefect if before else _prefect(ledger)
    return Status(ledger.folder, holder, prefect, _reservoir())


def _prefect(ledger: Ledger) -> PrefectStatus:
    try:
        url = find_server(ledger)
        from deployments.rollout.runs import last_runs, workers_online  # noqa: PLC0415 - Prefect reads its settings now
        from flows.runtime.prefect_api import impatient_client  # noqa: PLC0415

        with impatient_client() as client:
            found, workers = last_runs(client), workers_online(client)
    except UnavailableError as error:
        return PrefectStatus(error=str(error))
    except HTTPError as error:
        return PrefectStatus(error=said_by(error))
    deployments = [
        Deployed(name, schedule, run.name, run.state_name or "", run.state.type.value, run.state.timestamp)
        if run and run.state
        else Deployed(name, schedule)
        for name, schedule, run in found
    ]
    return PrefectStatus(without_password(url), workers=tuple(workers), deployments=tuple(deployments))


def _reservoir() -> RedisStatus:
    try:
        url = redis_url()
        reservoir = Reservoir(connect(url, retries=0))
        with reservoir.client:
            states = tuple(all_kept(reservoir.client))
            return RedisStatus(without_password(url), topics=tuple(reservoir.levels()), states=states)
    except SluiceError as error:
        return RedisStatus(error=str(error))
    except RedisError as error:  # it answered before
        return RedisStatus(error=in_words(error))


def _drawn(found: Status, width: int, *, is_watched: bool = False, partitions: bool = False) -> RenderableType:
    """Return the status as it is drawn, the most important part first: a low terminal cuts off the end."""
    prefect, reservoir = found.prefect, found.redis
    parts: list[RenderableType] = []
    if is_watched:
        parts.append(Text(f"{clock(datetime.now(UTC))}, every {_EVERY:.0f} s; Ctrl-C ends this", style="dim"))
    up = f"running (process {found.holder})" if found.holder else "not running here"
    parts += [_line("sluice up", up), _line("Prefect", prefect.error or prefect.url.removesuffix("/api"))]
    if not prefect.error and not prefect.workers:
        parts.append(_line("worker", f"none is online: no run begins; run `{up_command()}`, or see `sluice doctor`"))
    parts.append(_line("Redis", reservoir.error or reservoir.url))
    if not reservoir.error:
        shown = [row for level in reservoir.topics for row in (level, *(level.partitions if partitions else ()))]
        parts.append(levels_table(shown, width=width) if shown else Text("no topics yet"))
        parts += [Text(printable(each.unreadable), style="red") for each in reservoir.topics if each.unreadable]
    if reservoir.states:
        parts += ["", state_table(reservoir.states, now=time.time())]
    if not prefect.error:
        parts += ["", runs_table(prefect.deployments) if prefect.deployments else Text(_NO_DEPLOYMENTS)]
    return Group(*parts)


def _line(what: str, text: str) -> Text:
    return Text(f"{what:12} {text}", overflow="fold")


def _object(found: Status, *, partitions: bool) -> dict[str, Any]:
    topics = [level_object(each, partitions=partitions) for each in found.redis.topics]
    return {
        "time": datetime.now(UTC),
        "up": {"process": found.holder, "state": str(found.folder)},
        "prefect": asdict(found.prefect),
        "redis": asdict(found.redis) | {"topics": topics},
    }
