"""Consumer groups of a topic: their state in Redis, their names as text, and their creation."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis

from tasks.base.ids import id_numbers
from tasks.reservoir.lua import load
from tasks.reservoir.results import records_of

__all__ = ["create_group", "group_name", "groups_of", "is_gone", "position_ahead", "unless_gone"]

_CREATE = load(__file__, "create_group")
_LONGEST = 128  # characters; the limit of names of Sluice's groups


def is_gone(error: redis.RedisError) -> bool:
    """Return whether an error means that the group or its stream was deleted.

    The texts: NOGROUP for most commands, UNBLOCKED for a blocked read, 'no such key' for XINFO.
    """
    return any(word in str(error) for word in ("NOGROUP", "UNBLOCKED", "no such key"))


@contextmanager
def unless_gone() -> Iterator[None]:
    """Ignore errors of a deleted group: nothing can be pending then, and the next step recreates it."""
    try:
        yield
    except redis.ResponseError as error:
        if not is_gone(error):
            raise


def groups_of(client: redis.Redis, topic: str) -> dict[str, dict[str, Any]]:
    """Return the reply of XINFO GROUPS by `group_name`; empty for a missing topic."""
    known: Any = client  # redis-py types replies for all protocols and decodings at once
    try:
        groups = known.xinfo_groups(topic)
    except redis.ResponseError as error:
        if "no such key" not in str(error):
            raise
        return {}
    return {group_name(group["name"]): group for group in groups}


def position_ahead(client: redis.Redis, topic: str, group: str) -> str:
    """Return a group's position if it lies in the future and behind all existing entries; else ''."""
    known: Any = client
    found = groups_of(client, topic).get(group)
    if found is None:
        return ""
    position = found["last-delivered-id"].decode()
    seconds, micros = known.time()
    # Check the time first: XINFO STREAM also transfers the first and the last entry.
    if id_numbers(position)[0] <= seconds * 1000 + micros // 1000:
        return ""
    last = known.xinfo_stream(topic)["last-generated-id"].decode()
    return position if id_numbers(position) > id_numbers(last) else ""


def group_name(raw: bytes) -> str:
    """Return a group's name as text; escape invalid bytes of foreign names, and replace the end of long ones by a digest.

    >>> group_name(b"movers"), len(group_name(b"x" * 10**6))
    ('movers', 128)
    """
    text = raw[: 4 * _LONGEST].decode(errors="backslashreplace")
    if len(text) <= _LONGEST and len(raw) <= 4 * _LONGEST:
        return text
    digest = f"...{hashlib.sha256(raw).hexdigest()[:16]}"
    return text[: _LONGEST - len(digest)] + digest


def create_group(client: redis.Redis, topic: str, group: str, start: str) -> bool:
    """Create a group, and its topic, unless they exist; return whether the group is new.

    It starts behind the id `start`, or at '$'. The same script deletes records of results that a deleted group of this name
    has left: they would suppress new results. A second command would be too late, because another consumer may create the
    group first and append results at once.
    """
    records = [] if group in groups_of(client, topic) else records_of(client, group, topic)
    try:
        _CREATE.on(client)(topic=topic, records=records, group=group, start=start)
    except redis.ResponseError as error:
        if not str(error).startswith("BUSYGROUP"):
            raise
        return False
    return True
