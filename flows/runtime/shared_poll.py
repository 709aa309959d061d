"""Polls Prefect's server for all runs of inlets and outlets that share a Redis, through one of them.

A run's own request costs the server 14 ms (Prefect 3.9.1), a request for fifty runs 30 ms. The runs therefore register in Redis;
the holder of a lease there sends the request, and all read the answer from Redis.
"""

import hashlib
import json
import time
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

_LEASE_SECONDS = 8.0  # the holder polls more often, so that it stays the one that has a connection to the server
_LIVE = ("PENDING", "RUNNING", "CANCELLING", "PAUSED")
_RUNS_AT_ONCE = 200  # objects that the server returns at most
_INLETS_AT_ONCE = 50  # each has up to four live runs
_NONE = "-"  # in place of a deployment, for a run that is no inlet's
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
    updated     time of the latest deploy; empty if the deployment was deleted, and for a run that is no inlet's
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
    """One participant in the poll: a run, or `sluice up`, which only sends requests.

    client      a client of the Redis that the flows use
    name        name of the participant: a run's id
    deployment  the deployment of an inlet's run, so that the poll also reads its schedules, and starts a run if it has none
    server      address of Prefect's API, by default the one in the settings; each server has a poll of its own
    """

    def __init__(
        self, client: redis.Redis, *, name: str, deployment: str | None = None, server: str | None = None
    ) -> None:
        self._client: Any = client  # redis-py types replies for all protocols and decodings at once
        self._name = name
        self._deployment = deployment
        self._member = f"{name} {deployment or _NONE}"
        self._next_turn: float | None = None  # while this participant holds the lease
        server = server or str(get_current_settings().api.url or "")
        self._runs, self._seen, self._lease, self._inlets = poll_keys(hashlib.sha256(server.encode()).hexdigest()[:12])

    def look(self) -> tuple[Seen | None, float]:
        """Register this run; return its latest known state, if any, and the time by Redis' clock.

        raises    redis.RedisError
        """
        now_ms = self._now_ms()
        with self._client.pipeline(transaction=False) as pipe:
            pipe.zadd(self._runs, {self._member: now_ms})
            pipe.pexpire(self._runs, _TTL_MS)
            if self._deployment:
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
            pipe.zrem(self._runs, self._member)
            pipe.hdel(self._seen, self._name)
            pipe.execute()
        self.give_up_turn()
        self._client.close()

    def forget(self) -> None:
        """Take the deployment off the list of those that had a run here: it was deleted.

        raises    redis.RedisError
        """
        self._client.zrem(self._inlets, self._deployment)

    @property
    def leads(self) -> bool:
        """Whether this participant held the lease when it last looked."""
        return self._next_turn is not None

    def take_turn(self) -> bool:
        """Take the lease or renew it; return whether this participant is to send a request now.

        raises    redis.RedisError
        """
        if self._next_turn is None:
            if not self._client.set(self._lease, self._name, nx=True, px=_ms(_LEASE_SECONDS)):
                return False
        else:
            if time.monotonic() < self._next_turn:
                return False
            # Not in one step: if another participant takes the lease in between, both send a request, once.
            if self._client.get(self._lease) != self._name.encode():
                self._next_turn = None
                return False
            self._client.pexpire(self._lease, _ms(_LEASE_SECONDS))
        self._next_turn = time.monotonic() + POLL_SECONDS
        return True

    def give_up_turn(self) -> None:
        """Leave the lease to another participant: this one ends, or does not reach Prefect's server.

        raises    redis.RedisError
        """
        if self.leads and self._client.get(self._lease) == self._name.encode():
            self._client.delete(self._lease)
        self._next_turn = None

    def refresh(self, prefect: SyncPrefectClient) -> list[dict[str, Any]]:
        """Request the states of all runs, and store them in Redis for all; return the inlets without a live run.

        returns   the deployments, as Prefect's API gives them, that had a run here within seven days
        raises    redis.RedisError; httpx.HTTPError and Prefect's errors: no answer
        """
        now_ms = self._now_ms()
        self._client.zremrangebyscore(self._runs, 0, now_ms - _GONE_MS)
        self._client.zremrangebyscore(self._inlets, 0, now_ms - _INLET_TTL_MS)
        runs = dict(member.decode().split() for member in self._client.zrange(self._runs, 0, -1))
        inlets = [member.decode() for member in self._client.zrange(self._inlets, 0, -1)]
        states = {
            found["id"]: found["state_type"]
            for some in _parts(list(runs), _RUNS_AT_ONCE)
            for found in _filtered(prefect, "/flow_runs/filter", {"flow_runs": {"id": {"any_": some}}})
            if found["state_type"] in _LIVE
        }
        deployments = {
            found["id"]: found
            for some in _parts(sorted({*inlets, *runs.values()} - {_NONE}), _INLETS_AT_ONCE)
            for found in _filtered(prefect, "/deployments/filter", {"deployments": {"id": {"any_": some}}})
        }
        seen = {run: seen_of(run, deployments.get(of), states, at=now_ms / 1000) for run, of in runs.items()}
        with self._client.pipeline(transaction=False) as pipe:
            for run, one in seen.items():
                pipe.hset(self._seen, run, json.dumps(asdict(one)))
            pipe.pexpire(self._seen, _TTL_MS)
            for gone in set(inlets) - set(deployments):
                pipe.zrem(self._inlets, gone)
            pipe.execute()
        idle = [id_ for id_ in inlets if id_ in deployments and id_ not in {runs[run] for run in states}]
        return [deployments[id_] for id_ in self._without_live_run(prefect, idle)]

    def _without_live_run(self, prefect: SyncPrefectClient, inlets: Sequence[str]) -> list[str]:
        """Return those of the inlets that have no live run, which may be one that has not registered yet."""
        busy = {
            found["deployment_id"]
            for some in _parts(inlets, _INLETS_AT_ONCE)
            for found in _filtered(
                prefect,
                "/flow_runs/filter",
                {"deployments": {"id": {"any_": some}}, "flow_runs": {"state": {"type": {"any_": _LIVE}}}},
            )
        }
        return [id_ for id_ in inlets if id_ not in busy]

    def _now_ms(self) -> int:
        seconds, microseconds = self._client.time()
        return seconds * 1000 + microseconds // 1000


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _parts(ids: Sequence[str], at_once: int) -> Iterable[list[str]]:
    return (list(ids[start : start + at_once]) for start in range(0, len(ids), at_once))


def _filtered(prefect: SyncPrefectClient, path: Any, body: dict[str, Any]) -> list[dict[str, Any]]:
    # Not through the client's methods, which build models of everything, including parameter schemas.
    return prefect.request("POST", path, json=body).json()
