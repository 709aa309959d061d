"""The hash in which the states of a group's nodes are stored: its fields, and which node each belongs to."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from tasks.errors import PipelineError
from tasks.state.cut import Stored

__all__ = ["NODE", "StoredNode", "expect_known_format", "fields_by_node", "stored_nodes"]

NODE = b"node:"
"""The beginning of the fields that describe a node."""


_FORMAT = 1  # as tasks/group/scripts/own.lua writes it; tests/state/test_format.py holds the bytes


@dataclass(frozen=True, slots=True)
class StoredNode:
    """What is stored of one node.

    number       prefix of its fields
    fingerprint  type and parameters of the node
    fields, size   number and bytes of its fields
    time         Unix time of the last change, in seconds
    """

    name: str
    number: int
    fingerprint: str
    fields: int
    size: int
    time: float

    def packed(self) -> str:
        """Return the value of the node's own field."""
        return json.dumps([self.number, self.fingerprint, self.fields, self.size, round(self.time, 3)])

    @classmethod
    def unpacked(cls, name: bytes, value: bytes) -> "StoredNode":
        """Return the node that a field describes."""
        return cls(name.removeprefix(NODE).decode(), *json.loads(value))

    @property
    def prefix(self) -> bytes:
        """The beginning of the names that the node's own fields have in the hash of all nodes."""
        return b"%d:" % self.number


def expect_known_format(fields: Mapping[bytes, bytes], group: str) -> None:
    """Refuse a state that a later version of Sluice has stored in another way.

    raises    PipelineError: this version cannot read it; it stays as it is
    """
    if (found := fields.get(b"format", b"1")) != b"%d" % _FORMAT:
        msg = (
            f"group {group!r}: expected a stored state of format {_FORMAT}, got format {found.decode(errors='backslashreplace')}: another "
            "version of Sluice has stored it; run that version, or reset the group, which deletes its state (sluice groups reset)"
        )
        raise PipelineError(msg)


def stored_nodes(fields: Mapping[bytes, bytes]) -> dict[str, StoredNode]:
    """Return the nodes that a hash of state describes, by name."""
    found = (StoredNode.unpacked(name, value) for name, value in fields.items() if name.startswith(NODE))
    return {node.name: node for node in found}


def fields_by_node(fields: Mapping[bytes, bytes], nodes: Mapping[str, StoredNode]) -> Stored:
    """Return the fingerprint and the own fields of each node from a hash of state."""
    names = {node.number: node.name for node in nodes.values()}
    found: dict[str, dict[bytes, bytes]] = {name: {} for name in nodes}
    for name, value in fields.items():
        number, colon, field = name.partition(b":")
        if colon and number.isdigit() and (node := names.get(int(number))):
            found[node][field] = value
    return {name: (node.fingerprint, found[name]) for name, node in nodes.items()}
