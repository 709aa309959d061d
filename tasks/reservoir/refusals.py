"""What a server refuses for good, in words: about which key, what was expected there, what is there, and what to do."""

import re
from collections.abc import Mapping
from typing import Any

import redis
from redis.exceptions import NoPermissionError

from tasks.reservoir.connection import is_outage

__all__ = ["explained", "is_refused", "lacks_right"]

# What Redis adds to an error in a script: the script's hash, and where in it.
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
    """Return whether a server refuses a command for what a person can mend: a key of another type, a missing right."""
    if not isinstance(error, redis.ResponseError) or is_outage(error):
        return False
    return "WRONGTYPE" in str(error) or lacks_right(error)


def explained(error: redis.ResponseError, client: Any, keys: Mapping[str, str], *, what: str) -> redis.ResponseError:
    """Return `error`, of the same class, with the key that it is about and what to do; an outage is returned as it is.

    keys    the keys that the command uses, and the type that each is expected to have, as TYPE names it
    what    what came of it, such as "topic 'market': nothing was pushed"
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
    """Return whether a command was refused because the user may not run it, or not on these keys."""
    return isinstance(error, NoPermissionError) or any(words in str(error) for words in _NO_RIGHT)


def _cure(message: str, error: redis.ResponseError, keys: Mapping[str, str], found: Mapping[str, Any]) -> str:
    wrong = [
        f"{_A.get(keys[key], keys[key])} at key {key!r}, got {_A.get(kind.decode(), kind.decode())}"
        for key, kind in found.items()
        if isinstance(kind, bytes) and kind.decode() not in ("none", keys[key])
    ]
    if wrong:
        return f"expected {', and '.join(wrong)}; rename or delete what is there, or use another topic"
    if lacks_right(error):
        closed = [key for key, answer in found.items() if isinstance(answer, NoPermissionError)] or list(keys)
        named = ", ".join(map(repr, closed))
        return f"expected a Redis user with the rights that docs/redis.md lists, on the keys {named}; see ACL SETUSER"
    if "exhausted" in message:
        [topic, *_] = keys
        return f"the last id of {topic!r} is the largest that there is, so nothing can follow it: use another topic, or rename this one"
    return f"the keys are {', '.join(map(repr, keys))}"
