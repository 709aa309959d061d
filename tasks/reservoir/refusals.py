"""Lasting refusals of a server, explained: the key, the expected type, the type found, and the remedy."""

import re
from collections.abc import Mapping
from typing import Any

import redis
from redis.exceptions import NoPermissionError

from tasks.reservoir.connection import is_outage

__all__ = ["explained", "is_refused", "lacks_right"]

# Redis appends the script's hash and the line to an error in a script.
_IN_SCRIPT = re.compile(r",? script: .*$| on @user_script.*$", re.DOTALL)
_NO_RIGHT = (
    "NOPERM",
    "can't run this command",
    "can't access at least one of the keys",
    "No permissions",
    "no permissions",
)
_A = {
    "hash": "a hash",
    "list": "a list",
    "set": "a set",
    "stream": "a stream",
    "string": "a string",
    "zset": "a sorted set",
}


def is_refused(error: Exception) -> bool:
    """Return whether a person can remedy a refusal: a key of another type, or a missing right."""
    if not isinstance(error, redis.ResponseError) or is_outage(error):
        return False
    return "WRONGTYPE" in str(error) or lacks_right(error)


def explained(error: redis.ResponseError, client: Any, keys: Mapping[str, str], *, what: str) -> redis.ResponseError:
    """Return an error of the same class with the key and the remedy in its text; an outage unchanged.

    keys    the command's keys with their expected types, as TYPE names them
    what    the effect, such as "topic 'market': nothing was pushed"
    """
    if is_outage(error):
        return error
    message = _IN_SCRIPT.sub("", str(error).partition("\n")[0]).strip()
    try:
        with client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.type(key)
            found = dict(zip(keys, pipe.execute(raise_on_error=False), strict=True))
    except redis.RedisError:
        return error
    return type(error)(f"{message}: {what}; {_cure(message, error, keys, found)}")


def lacks_right(error: redis.ResponseError) -> bool:
    """Return whether a command was refused because the user lacks a right to it or its keys."""
    return isinstance(error, NoPermissionError) or any(words in str(error) for words in _NO_RIGHT)


def _cure(message: str, error: redis.ResponseError, keys: Mapping[str, str], found: Mapping[str, Any]) -> str:
    wrong = [
        f"{_A.get(keys[key], keys[key])} at key {key!r}, got {_A.get(kind.decode(), kind.decode())}"
        for key, kind in found.items()
        if isinstance(kind, bytes) and kind.decode() not in ("none", keys[key])
    ]
    if wrong:
        return f"expected {', and '.join(wrong)}; rename or delete the key, or use another topic"
    if lacks_right(error):
        closed = [key for key, answer in found.items() if isinstance(answer, NoPermissionError)] or list(keys)
        named = ", ".join(map(repr, closed))
        return f"expected a Redis user with the rights that docs/redis.md lists, on the keys {named}; see ACL SETUSER"
    if "exhausted" in message:
        topics = " or ".join(repr(key) for key, kind in keys.items() if kind == "stream")
        return f"the last id of {topics} is the largest possible one, so nothing can follow it: use another topic, or rename this one"
    return f"the keys are {', '.join(map(repr, keys))}"
