"""Connections to Redis: the server is checked, timeouts are set, and only safe commands are retried."""

from typing import Any
from urllib.parse import parse_qs

import redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import MasterDownError, NoPermissionError, OutOfMemoryError, ReadOnlyError
from redis.retry import Retry
from redis.sentinel import SentinelConnectionPool

from tasks.errors import SettingsError, UnavailableError
from tasks.reservoir.packing import PACKER
from tasks.settings import QUOTING, REDIS_URL, check_url, without_password

__all__ = ["MIN_REDIS_VERSION", "adapted", "connect", "in_words", "is_outage"]

# The first version with XAUTOCLAIM, XADD NOMKSTREAM and trims by MINID.
MIN_REDIS_VERSION = (6, 2)
SOCKET_TIMEOUT = 5.0
# Options that redis-py would take from an address instead of from here, and others that change replies or repeat commands.
_OWN = {"protocol", "socket_timeout", "socket_connect_timeout", "decode_responses", "encoding", "encoding_errors"}
_OWN |= {"legacy_responses", "retry", "retry_on_timeout", "retry_on_error"}
# redis-py's defaults for options that change the form of requests and replies; from 8.0 on its default protocol is 3.
_DEFAULTS = {"decode_responses": False, "legacy_responses": True, "encoding": "utf-8", "encoding_errors": "strict"}
# These must be at least `SOCKET_TIMEOUT`, so that no blocking read outlasts them, and never unlimited.
_TIMEOUTS = ("socket_timeout", "socket_connect_timeout")
_THREADS = 16  # connections that a client must permit for its threads; redis-py's default is 100 or more
# Settings that a pool adds for its own connections: for RESP 3 from redis-py 8.0 on (refused with RESP 2), and for the
# servers that a Sentinel finds.
_OF_THE_POOL = ("maint", "oss_cluster_maint", "orig_", "connection_pool")
# A server that cannot save, lacks replicas, or runs another client's long script; the last two are Redis 6.2's texts for a
# refusal inside a script, which outside a script has a class of its own.
_TEMPORARY = ("MISCONF", "NOREPLICAS", "BUSY ", "OOM ", "READONLY ")


def connect(url: str, *, retries: int = 3, named: str = REDIS_URL) -> redis.Redis:
    """Return a client of the server at `url`, after checking that it answers and is new enough.

    retries   how often a command is sent again after a lost connection; safe for idempotent commands only, because redis-py
              repeats a command even if the server has run it
    named     the source of the address, for messages
    raises    UnavailableError: no answer, or no permission; SettingsError: an invalid URL, a server that is too old, a cluster
    """
    where = without_password(check_url(url))
    if own := _OWN & parse_qs(url.partition("#")[0].partition("?")[2]).keys():
        msg = f"expected an address without {' and '.join(sorted(own))}, which is Sluice's own to set, got one with it ({where}); leave it out"
        raise SettingsError(msg)
    try:
        client = redis.Redis.from_url(
            url,
            protocol=2,  # RESP3 changes the shape of XREADGROUP's reply
            socket_timeout=SOCKET_TIMEOUT,
            socket_connect_timeout=SOCKET_TIMEOUT,
            retry=_retry(retries),
            decode_responses=False,
            command_packer=PACKER,
        )
        info = client.info("server")
    except (ValueError, TypeError):  # redis-py raises TypeError for an unknown option when it connects
        msg = (
            "expected an address like redis://HOST:6379/0, rediss://... or unix:///PATH, "
            f"got one redis-py cannot use ({where}); {QUOTING}"
        )
        raise SettingsError(msg) from None  # redis-py's error may repeat the password
    except redis.RedisError as error:
        msg = f"Redis at {where} {_fault(error, url, named)}"
        # If the end of the password is unclear, redis-py's error may show a part of it as the host.
        raise UnavailableError(msg) from (None if where.endswith("://") else error)
    _check_server(info, where)
    return client


def adapted(client: redis.Redis, *, retries: int | None = None) -> redis.Redis:
    """Return a client of the same server and database with the options that Sluice needs.

    Returns `client` itself if its options fit and it has connections for several threads. Otherwise, or if `retries` is
    given, returns a new client with the same credentials, TLS options and Sentinels, and with a pool of its own, so that
    its reads neither wait for connections of the caller's pool nor occupy them.

    retries   how often the new client repeats a command after a lost connection; default: as often as `client`
    raises    SettingsError: not a synchronous client of a single server
    """
    if not isinstance(client, redis.Redis):
        kind = f"{type(client).__module__}.{type(client).__qualname__}"
        msg = f"expected a redis.Redis or a subclass, such as redis.Redis.from_url(...), got {kind}; clusters and asyncio clients do not work here"
        raise SettingsError(msg)
    pool, given = client.connection_pool, client.connection_pool.connection_kwargs
    ours: dict[str, Any] = {"protocol": 2} | {name: value for name, value in _DEFAULTS.items() if name in given}
    ours |= {name: SOCKET_TIMEOUT for name in _TIMEOUTS if name in given and (given[name] or 0) < SOCKET_TIMEOUT}
    is_alike = all(given.get(name) == value for name, value in ours.items())
    # Several threads use it: one writes results while the caller uses another connection.
    is_for_many = client.connection is None and pool.max_connections >= _THREADS and type(pool) is redis.ConnectionPool
    if is_alike and is_for_many and retries is None:
        return client
    settings = {name: value for name, value in given.items() if not name.startswith(_OF_THE_POOL)} | ours
    if retries is not None:
        settings["retry"] = _retry(retries)
    settings["connection_class"] = pool.connection_class
    if isinstance(pool, SentinelConnectionPool):
        settings |= {"is_master": pool.is_master, "check_connection": pool.check_connection}
        return redis.Redis(connection_pool=SentinelConnectionPool(pool.service_name, pool.sentinel_manager, **settings))
    return redis.Redis(connection_pool=redis.ConnectionPool(**settings))


def in_words(error: redis.RedisError) -> str:
    """Return a server's refusal or failure of a command as one line."""
    return f"Redis ended a command with {type(error).__name__}: {str(error).partition(chr(10))[0]}"


def is_outage(error: Exception) -> bool:
    """Return whether an error is temporary: no answer, out of memory, busy, or a server that accepts no writes."""
    if isinstance(
        error, redis.ConnectionError | redis.TimeoutError | OutOfMemoryError | ReadOnlyError | MasterDownError
    ):
        return True
    return isinstance(error, redis.ResponseError) and any(word in str(error) for word in _TEMPORARY)


def _retry(retries: int) -> Retry:
    return Retry(ExponentialBackoff(cap=1.0, base=0.05), retries)


def _check_server(info: dict[str, Any], where: str) -> None:
    version = str(info.get("redis_version", "0"))
    wanted = ".".join(map(str, MIN_REDIS_VERSION))
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < MIN_REDIS_VERSION:
        msg = f"expected Redis or Valkey {wanted} or later at {where}, got {version}; upgrade the server"
        raise SettingsError(msg)
    if "cluster" in (info.get("redis_mode"), info.get("server_mode")):  # the latter is Valkey's name for it
        msg = f"Redis at {where} is a cluster, whose scripts cannot touch a topic and its records together; use a single server"
        raise SettingsError(msg)


def _fault(error: redis.RedisError, url: str, named: str) -> str:
    """Return the fault and its remedy, without the address, which may hold a password."""
    if isinstance(error, redis.AuthenticationError):
        return f"refuses the user or password; check {named}"
    if isinstance(error, NoPermissionError):
        return f"does not let this user run INFO; give it the right (ACL SETUSER), or set {named}"
    if isinstance(error, redis.InvalidResponse):
        return f"answers, but not as a Redis does; check host and port in {named}"
    if isinstance(error, redis.ResponseError):
        return f"refuses to be used ({error}); check {named}"
    cause = error.__cause__ or error.__context__ or error
    reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else type(error).__name__
    tls = " and that it speaks TLS, as rediss:// asks for" if url.startswith("rediss:") else ""
    return f"does not answer ({reason}); check that it runs there{tls}, or set {named}"
