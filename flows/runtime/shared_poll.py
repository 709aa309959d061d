"""Polls Prefect's server for all inlet runs that share a Redis, through one of them.

A run's own request costs the server 14 ms (Prefect 3.9.1), a request for fifty runs 30 ms. The runs therefore register in Redis;
the holder of a lease there sends the request, and all read the answer from Redis.
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

__all__ = ["PAUSED", "POLL_SECONDS", "Seen", "SharedPoll", "scheduled_by", "seen_of"]

POLL_SECONDS = 5.0  # seconds between two requests to Prefect's server
PAUSED = "Paused"
"""The name of the state of a run that ended because its schedule was paused."""

_LIVE = ("PENDING", "RUNNING", "CANCELLING", "PAUSED")
_AT_ONCE = 50  # deployments in a request: each has up to four live runs, and the server returns 200 at most
_GONE_MS = 30_000  # a run that has not registered for this long has ended
_TTL_MS = 120_000
_INLET_TTL_MS = 7 * 86_400_000
# Fields of a deployment that change what its runs do. Not its version, which changes with every git commit.
_CONTENT = ("entrypoint", "path", "pull_steps", "job_variables", "work_pool_name")


@dataclass(frozen=True, slots=True)
class Seen:
    """The state of one run and its deployment on Prefect's server.

    at          time of the request, in seconds since the epoch, by Redis' clock
    state       the run's state type while it lives; else 'OVER'
    updated     time of the latest deploy; empty if the deployment was deleted
    content     a hash that changes with the fields that determine what a run does, apart from its code
    parameters  those of the deployment
    scheduled   the parameters of each active schedule; empty also while the deployment is paused
    """

    at: float
    state: str
    updated: str = ""
    content: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    scheduled: list[dict[str, Any]] = field(default_factory=list)


def seen_of(run: str, deployment: Mapping[str, Any] | None, states: Mapping[str, str], *, at: float) -> Seen:
    """Return the state of one run from the answers of Prefect's server."""
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
    """Return the active schedules of a deployment, each with the parameters of its runs; none if the deployment is paused."""
    active = [] if deployment["paused"] else [one for one in deployment["schedules"] if one["active"]]
    return [(one, {**deployment["parameters"], **(one.get("parameters") or {})}) for one in active]


class SharedPoll:
    """One participant in the poll: a run of an inlet, or `sluice up`, which only sends requests.

    client  a client of the Redis that the inlets push to
    name    name of the participant: a run's id
    server  address of Prefect's API, by default the one in the settings; each server has a poll of its own
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
        """Register this run; return its latest known state, if any, and the time by Redis' clock.

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
        """Unregister this run, which has ended, and close the connection.

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
        """Take the lease, and return whether it was free: then this participant sends the next request.

        raises    redis.RedisError
        """
        return bool(self._client.set(self._lease, self._name, nx=True, px=round(POLL_SECONDS * 1000)))

    def refresh(self, prefect: SyncPrefectClient) -> list[dict[str, Any]]:
        """Request the states of all runs, and store them in Redis for all; return the inlets without a live run.

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
    # Not through the client's methods, which build models of everything, including parameter schemas.
    return prefect.request("POST", path, json=body).json()
