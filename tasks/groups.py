"""The consumer groups of a topic: what Redis tells of them, and how one begins."""

from typing import Any

import redis

from tasks.results import records_of

__all__ = ["create_group", "groups_of"]

# KEYS: the topic, records of results to be forgotten. ARGV: the group, where it begins.
_CREATE = """
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], ARGV[2], 'MKSTREAM')
if made.err then return made end
for i = 2, #KEYS do redis.call('UNLINK', KEYS[i]) end
return made
"""


def groups_of(client: redis.Redis, topic: str) -> dict[str, dict[str, Any]]:
    """Return what XINFO GROUPS tells of each group, by its name; nothing of a topic that is not there.

    The bytes of a name that is no text, which no group of ours has, are escaped.
    """
    known: Any = client  # redis-py types replies for all protocols and decodings at once
    try:
        groups = known.xinfo_groups(topic)
    except redis.ResponseError as error:
        if "no such key" not in str(error):
            raise
        return {}
    return {group["name"].decode(errors="backslashreplace"): group for group in groups}


def create_group(client: redis.Redis, topic: str, group: str, start: str) -> bool:
    """Have a group, and its topic; return whether it was not there yet. It begins behind the id `start`, or at '$'.

    Of one of this name that was deleted the records of results are forgotten, or what is made now would seem to be made
    already. In one command with the making: another consumer that makes the group first may have results at once.
    """
    records = [] if group in groups_of(client, topic) else records_of(client, group, topic)
    try:
        client.eval(_CREATE, 1 + len(records), topic, *records, group, start)  # type: ignore[arg-type]
    except redis.ResponseError as error:
        if not str(error).startswith("BUSYGROUP"):
            raise
        return False
    return True
