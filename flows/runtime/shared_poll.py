"""What Prefect's server knows of the inlets' runs: asked by one of them for all that share a Redis.

A run that asks for itself costs the server 14 ms each time (Prefect 3.9.1); one that asks for fifty, 30 ms. So the runs
register in Redis, whoever holds the lease there asks, and all read the answer there.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import redis
from prefect.client.orchestration import SyncPrefectClient
from prefect.settings import get_current_settings

from tasks.reservoir.keys import poll_keys

__all__ = ["ASK_EVERY", "PAUSED", "Seen", "SharedPoll", "scheduled_by", "seen_of"]

ASK_EVERY = 5.0  # seconds between two questions to Prefect's server
PAUSED = "Paused"
"""The name of the state of a run that ended because its schedule was paused."""

_LIVE = ("PENDING", "RUNNING", "CANCELLING", "PAUSED")
_AT_ONCE = 50  # deployments a question: each has up to four live runs, and the server answers with 200 at most
_GONE_MS = 30_000  # a run that did not register for so long has ended
_TTL_MS = 120_000
_INLET_TTL_MS = 7 * 86_400_000
# What makes a run of another kind of a deployment. Not its version: with git that is the commit, whatever it changed.
_CONTENT = ("entrypoint", "path", "pull_steps", "job_variables", "work_pool_name")


@dataclass(frozen=True, slots=True)
class Seen:
    """What Prefect's server knew of one run and its deployment.

    at          when it was asked, in seconds since the epoch, by Redis' clock
    state       the run's state type while it lives; else 'OVER'
    updated     when the deployment was deployed last; empty if it was deleted
    content     changes when what a run of it does changes, apart from its code
    parameters  those of the deployment
    scheduled   the parameters of each of its active schedules; empty also while the deployment is paused
    """

    at: float
    state: str
    updated: str = ""
    content: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    scheduled: list[dict[str, Any]] = field(default_factory=list)


def seen_of(run: str, deployment: Mapping[str, Any] | None, states: Mapping[str, str], *, at: float) -> Seen:
    """Return what the answers of Prefect's server say about one run."""
    state = states.get(run, "OVER")
    if deployment is None:
        return Seen(at, state)
    content = json.dumps([deployment.get(name) for name in _CONTENT], sort_keys=True)
    return Seen(
        at,
        state,
        updated=deployment["updated"],
        content=hashlib.sha256(content.encode()).hexdigest()[:16],
        parameters=deployment["parameters"],
        scheduled=[parameters for _, parameters in scheduled_by(deployment)],
    )


def scheduled_by(deployment: Mapping[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the active schedules of a deployment that is not paused, each with the parameters of the runs it brings."""
    active = [] if deployment["paused"] else [one for one in deployment["schedules"] if one["active"]]
    return [(one, {**deployment["parameters"], **(one.get("parameters") or {})}) for one in active]


class SharedPoll:
    """One participant: a run of an inlet, or `sluice up`, which only asks.

    client  of the Redis that the inlets push to
    name    of this participant: a run's id
    server  the address of Prefect's API, by default the one that is set: runs of different servers have nothing to do
            with each other
    """

    def __init__(
        self, client: redis.Redis, *, name: str, deployment: str | None = None, server: str | None = None
    ) -> None:
        self._client: Any = client  # redis-py types replies for all protocols and decodings at once
        self._name = name
        self._deployment = deployment
        server = server or str(get_current_settings().api.url or "")
        self._runs, self._seen, self._lease, self._inlets = poll_keys(hashlib.sha256(server.encode()).hexdigest()[:12])

    def look(self) -> tuple[Seen | None, float]:
        """Register this run; return what was seen of it at last, if anything, and what time it is for Redis.

        raises    redis.RedisError
        """
        now_ms = self._now_ms()
        with self._client.pipeline(transaction=False) as pipe:
            pipe.zadd(self._runs, {f"{self._name} {self._deployment}": now_ms})
            pipe.pexpire(self._runs, _TTL_MS)
            pipe.zadd(self._inlets, {self._deployment: now_ms})
            pipe.pexpire(self._inlets, _INLET_TTL_MS)
            pipe.hget(self._seen, self._name)
            text = pipe.execute()[-1]
        return (Seen(**json.loads(text)) if text else None), now_ms / 1000

    def leave(self) -> None:
        """Take this run off the list, as it has ended, and close the connection.

        raises    redis.RedisError
        """
        with self._client.pipeline(transaction=False) as pipe:
            pipe.zrem(self._runs, f"{self._name} {self._deployment}")
            pipe.hdel(self._seen, self._name)
            pipe.execute()
        self._client.close()

    def forget(self) -> None:
        """Take the deployment off the list of those that had a run here: it was deleted.

        raises    redis.RedisError
        """
        self._client.zrem(self._inlets, self._deployment)

    def take_turn(self) -> bool:
        """Return whether it is this participant's turn to ask; for the next seconds it is no other's.

        raises    redis.RedisError
        """
        return bool(self._client.set(self._lease, self._name, nx=True, px=round(ASK_EVERY * 1000)))

    def ask(self, prefect: SyncPrefectClient) -> list[dict[str, Any]]:
        """Ask Prefect's server, and leave what it knows in Redis for all; return the inlets that have no live run.

        returns   the deployments, as Prefect's API gives them, that had a run here within seven days
        raises    redis.RedisError; httpx.HTTPError and Prefect's errors: no answer
        """
        now_ms = self._now_ms()
        self._client.zremrangebyscore(self._runs, 0, now_ms - _GONE_MS)
        self._client.zremrangebyscore(self._inlets, 0, now_ms - _INLET_TTL_MS)
        runs = [member.decode().split() for member in self._client.zrange(self._runs, 0, -1)]
        inlets = [member.decode() for member in self._client.zrange(self._inlets, 0, -1)]
        deployments: dict[str, dict[str, Any]] = {}
        states: dict[str, str] = {}
        busy: set[str] = set()
        for some in _parts(sorted({*inlets, *(deployment for _, deployment in runs)})):
            among = {"deployments": {"id": {"any_": some}}}
            for found in _filtered(prefect, "/deployments/filter", among):
                deployments[found["id"]] = found
            live = {"state": {"type": {"any_": _LIVE}}}
            for found in _filtered(prefect, "/flow_runs/filter", {**among, "flow_runs": live}):
                states[found["id"]] = found["state_type"]
                busy.add(found["deployment_id"])
        seen = {run: seen_of(run, deployments.get(of), states, at=now_ms / 1000) for run, of in runs}
        with self._client.pipeline(transaction=False) as pipe:
            for run, one in seen.items():
                pipe.hset(self._seen, run, json.dumps(asdict(one)))
            pipe.pexpire(self._seen, _TTL_MS)
            for gone in set(inlets) - set(deployments):
                pipe.zrem(self._inlets, gone)
            pipe.execute()
        return [deployments[id_] for id_ in inlets if id_ in deployments and id_ not in busy]

    def _now_ms(self) -> int:
        seconds, microseconds = self._client.time()
        return seconds * 1000 + microseconds // 1000


def _parts(ids: Sequence[str]) -> Iterable[list[str]]:
    return (list(ids[start : start + _AT_ONCE]) for start in range(0, len(ids), _AT_ONCE))


def _filtered(prefect: SyncPrefectClient, path: Any, body: dict[str, Any]) -> list[dict[str, Any]]:
    # Not by the client's methods: they make models of all of it, parameter schemas included.
    return prefect.request("POST", path, json=body).json()
