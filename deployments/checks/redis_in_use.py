"""Check the Redis in use. Nothing is written to it."""

import time
from collections.abc import Iterator
from typing import Any

import redis

from deployments.checks.findings import Finding, failure, fine, warning
from tasks.errors import SluiceError
from tasks.report.levels import short_bytes
from tasks.reservoir import Reservoir
from tasks.reservoir.connection import connect, in_words
from tasks.reservoir.keys import PROBE
from tasks.settings import redis_url, without_password

__all__ = ["check_redis"]

_CLOCK = 1.0  # maximum difference of the clocks in seconds: the shortest usual tick
_NEARLY_FULL = 0.9
_TOPICS = 5  # unreadable topics that are named

# A script that only reads, to test the rights that Sluice's scripts need.
_SCRIPT = "return redis.call('EXISTS', KEYS[1])"


def check_redis() -> Iterator[Finding]:
    """Check that Redis answers, is new enough and no cluster, and neither loses nor evicts data."""
    try:
        url = redis_url()
        client: Any = connect(url, retries=0)  # redis-py types replies for all protocols and decodings at once
    except SluiceError as error:
        yield failure("Redis", error)
        return
    with client:
        try:
            info = client.info()
            yield fine("Redis", f"{_name(info)} at {without_password(url)}")
            yield from _server(client, info)
            yield _persistence(info, _saves(client))
            yield _memory(info)
            yield _clock(client)
            yield from _topics(client)
        except redis.RedisError as error:
            yield failure(
                "Redis",
                in_words(error),
                "see that it stays up and that this user may run INFO, TIME and scripts",
            )


def _name(info: dict[str, Any]) -> str:
    compatible = f"as Redis {info['redis_version']}"
    return (
        f"Valkey {info['valkey_version']} ({compatible})"
        if "valkey_version" in info
        else f"Redis {info['redis_version']}"
    )


def _server(client: Any, info: dict[str, Any]) -> Iterator[Finding]:
    if info.get("role") not in (None, "master"):
        yield failure("Redis role", "a replica, which takes no writes", "set SLUICE_REDIS_URL to its primary")
    try:
        client.register_script(_SCRIPT)(keys=[PROBE])
        client.eval(_SCRIPT, 1, PROBE)
    except (redis.exceptions.NoPermissionError, redis.ResponseError) as error:
        reason = str(error).partition("\n")[0]
        yield failure(
            "Redis scripts",
            f"refused: {reason}",
            "let this user run EVAL, EVALSHA and SCRIPT LOAD, on all topics and on sluice:*",
        )
    else:
        yield fine("Redis scripts", "run")


def _saves(client: Any) -> str | None:
    """Return the schedule of snapshots, '' for none; None if the server does not report it."""
    try:
        return client.config_get("save").get("save")
    except redis.RedisError:  # managed servers, and missing rights, refuse the command
        return None


def _persistence(info: dict[str, Any], saves: str | None) -> Finding:
    check, do = "Redis data", "CONFIG SET appendonly yes, and the same in redis.conf"
    if info.get("aof_enabled"):
        if info.get("aof_last_write_status", "ok") != "ok":
            return failure(check, "its append-only file cannot be written", "look for a full disk, and into its log")
        return fine(check, "in an append-only file")
    if saves:
        return warning(
            check, f"in snapshots only (save {saves}): what came after the last one is lost with the server", do
        )
    if saves is None:
        return warning(check, "no append-only file; it does not tell whether it makes snapshots", do)
    return failure(check, "in memory only: all of it is lost with the server", do)


def _memory(info: dict[str, Any]) -> Finding:
    check, used, most, policy = (
        "Redis memory",
        info["used_memory"],
        info.get("maxmemory", 0),
        info.get("maxmemory_policy"),
    )
    summary = f"{short_bytes(used)} used"
    if not most:
        return fine(check, f"{summary}, no limit")
    summary += f" of {short_bytes(most)}, {policy}"
    if policy != "noeviction":
        what = "topics" if str(policy).startswith("allkeys") else "leases and the records that make results come once"
        return failure(
            check, f"{summary}: it evicts {what}", "CONFIG SET maxmemory-policy noeviction, and the same in redis.conf"
        )
    if used > _NEARLY_FULL * most:
        return warning(
            check, f"{summary}: inlets and results wait when it is full", "let topics keep less, or raise maxmemory"
        )
    return fine(check, summary)


def _topics(client: Any) -> Iterator[Finding]:
    unreadable = [level.unreadable for level in Reservoir(client).levels() if level.unreadable]
    for why in unreadable[:_TOPICS]:
        reason, _, do = why.rpartition("; ")
        yield warning("Redis topics", reason, do)
    if len(unreadable) > _TOPICS:
        yield warning("Redis topics", f"{len(unreadable) - _TOPICS} more cannot be read", "see `sluice status`")


def _clock(client: Any) -> Finding:
    before = time.time()
    seconds, microseconds = client.time()
    now = (before + time.time()) / 2
    apart = seconds + microseconds / 1e6 - now
    summary = f"{abs(apart):.3f} s {'ahead of' if apart > 0 else 'behind'} this machine's"
    if abs(apart) > _CLOCK:
        return warning("Redis clock", f"{summary}: times, ages and lag are wrong by that", "set both by NTP")
    return fine("Redis clock", summary)
