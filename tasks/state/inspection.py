"""Inspection of kept state: its nodes, sizes and values; and its deletion."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import redis

from tasks.errors import PoisonEntryError, SettingsError
from tasks.reservoir.keys import scope_of, state_key
from tasks.reservoir.lua import load
from tasks.state.stored_nodes import StoredNode, fields_by_node, stored_nodes
from tasks.state.values import STATES

__all__ = ["KeptState", "all_kept", "exported", "kept_state", "reset_node"]

_RESET = load(__file__, "reset")
_HEAD = ("version", "time", "owner")


@dataclass(frozen=True, slots=True)
class KeptState:
    """The stored state of a group.

    version  the number of cuts that were stored
    time     Unix time of the last one in seconds; None before the first
    owner    the consumer that stores it, or did last
    nodes    what is stored of each node, by name
    """

    group: str
    version: int
    time: float | None
    owner: str
    nodes: tuple[StoredNode, ...]


def kept_state(client: redis.Redis, group: str) -> KeptState | None:
    """Return the stored state of a group; None if there is none."""
    known: Any = client
    fields: dict[bytes, bytes] = dict(known.hscan_iter(state_key(group), match="node:*", count=1000))
    version, time, owner = known.hmget(state_key(group), *_HEAD)
    if version is None:
        return None
    nodes = sorted(stored_nodes(fields).values(), key=lambda node: node.name)
    return KeptState(group, int(version), float(time) if time else None, (owner or b"").decode(), tuple(nodes))


def all_kept(client: redis.Redis) -> Iterator[KeptState]:
    """Yield the stored state of each group that keeps any, by group."""
    known: Any = client
    keys = sorted(known.scan_iter(match=state_key("*"), count=1000, _type="HASH"))
    for key in keys:
        if (kept := kept_state(client, scope_of(key.decode(errors="replace")))) and kept.nodes:
            yield kept


def exported(client: redis.Redis, group: str) -> dict[str, dict[Any, Any]]:
    """Return the stored values of each node, by node and field: what was encoded, or an error's text in its place.

    The fields of a keyed state are its keys; a state in one piece has the field ''.
    """
    known: Any = client
    fields = dict(known.hscan_iter(state_key(group), count=1000))
    return {
        node: {_decoded(name): _decoded(value) for name, value in found.items()}
        for node, (_, found) in fields_by_node(fields, stored_nodes(fields)).items()
    }


def reset_node(client: redis.Redis, group: str, node: str) -> int:
    """Delete the stored state of a node; return the number of its fields. A running pipeline begins anew with what is left.

    raises    SettingsError: no state is stored for that node
    """
    kept = kept_state(client, group)
    found = {one.name: one for one in kept.nodes} if kept else {}
    if (
        node not in found
        or (gone := _RESET.on(client)(state=state_key(group), node=node, prefix=found[node].prefix)) < 0
    ):
        names = ", ".join(map(repr, found)) or "none"
        msg = f"group {group!r}: expected a node with a stored state ({names}), got {node!r}"
        raise SettingsError(msg)
    return gone


def _decoded(data: bytes) -> Any:
    """Return a value, or the bytes themselves if they are no value: names of windows' fields are not encoded."""
    try:
        return STATES.decode(data)
    except PoisonEntryError:
        return data.decode(errors="backslashreplace")
