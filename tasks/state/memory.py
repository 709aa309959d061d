"""The memory of one node: the fields that are stored, and their restoration.

An element that a window or a join keeps is stored once, when it is new there: it must not be changed in place afterwards.
What a function has accumulated is stored anew at each cut, because functions do change it in place.
"""

from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Mapping
from typing import Any

from streamz import Stream

from tasks.errors import EncodeError, PipelineError
from tasks.pipeline.receipts import Metadata, Receipt
from tasks.state.cut import Change
from tasks.state.values import STATES

__all__ = ["ABSENT", "Cells", "Ghosts", "Keyed", "Memory", "Seen", "Whole", "as_metadata", "as_origins"]

ABSENT: Any = object()
"""In place of a state: there is none."""

_WHOLE = b""
_LAYOUT = b"="

Origins = list[tuple[str, str, bool, int]]
"""Entries that an element was made of: topic, id, whether the entry has failed, and its event time in ms."""

Ghosts = Callable[..., Receipt]
"""Returns the receipt of an entry that was acknowledged with an earlier cut."""


def as_origins(metadata: Metadata) -> Origins:
    """Return the entries that metadata of streamz hold receipts of."""
    found = [one["ref"] for one in metadata or () if one and isinstance(one.get("ref"), Receipt)]
    return [(one.topic, one.id, one.failure is not None, one.time_ms) for one in found if one.id]


def as_metadata(origins: Origins, ghosts: Ghosts) -> list[dict[str, Any]]:
    """Return metadata with the receipts of entries that an earlier cut covers."""
    return [{"ref": ghosts(*origin)} for origin in origins]


class Memory(ABC):
    """The state of one node: its changes, and its restoration. The graph's thread.

    fingerprint   type and parameters of the node: what was stored with another one is not loaded
    """

    def __init__(self, node: Stream, fingerprint: str) -> None:
        self.node: Any = node
        self.name: str = self.node.meter.name
        self.fingerprint = fingerprint
        self._sizes: dict[bytes, int] = {}
        self.size = 0
        """The bytes of all fields."""

    @property
    def fields(self) -> int:
        """The number of fields."""
        return len(self._sizes)

    @abstractmethod
    def collect(self) -> tuple[dict[bytes, Any], list[bytes]]:
        """Return the fields that have changed since the last call, and the names of those that are gone."""

    @abstractmethod
    def restore(self, fields: Mapping[bytes, Any], ghosts: Ghosts) -> None:
        """Give the node its state back."""

    def note_failures(self, failed: Collection[Receipt]) -> None:  # noqa: B027 - most memories compare all that a node holds
        """Store anew what holds receipts that have failed since the last cut."""

    def change(self) -> Change | None:
        """Return what has changed since the last call, encoded; None for nothing.

        raises    PipelineError: the state holds what cannot be stored
        """
        try:
            changed, gone = self.collect()
            stored = {name: STATES.encode(value) for name, value in changed.items()}
        except EncodeError as error:
            msg = (
                f"node {self.name!r}: expected a state that can be stored, got one that cannot: {error}; nothing was acknowledged since "
                "the last stored state; change the state, or give up keeping it with keep_state=False"
            )
            raise PipelineError(msg) from error
        sizes = self._sizes
        for name in gone:
            self.size -= sizes.pop(name, 0)
        for name, data in stored.items():
            size = len(name) + len(data)
            self.size += size - sizes.get(name, 0)
            sizes[name] = size
        if not stored and not gone:
            return None
        return Change(self.name, self.fingerprint, stored, gone, fields=len(sizes), size=self.size)

    def load(self, fields: Mapping[bytes, bytes], ghosts: Ghosts) -> None:
        """Restore the node from what was stored.

        raises    PoisonEntryError: the bytes are no state
        """
        self._sizes = {name: len(name) + len(data) for name, data in fields.items()}
        self.size = sum(self._sizes.values())
        self.restore({name: STATES.decode(data) for name, data in fields.items()}, ghosts)


class Whole(Memory):
    """A state in one piece, stored anew whenever the node has received an element.

    get    returns the state, or `absent` if there is none yet
    put    sets it
    """

    def __init__(
        self,
        node: Stream,
        fingerprint: str,
        *,
        get: Callable[[], Any],
        put: Callable[[Any], None],
        absent: Any = ABSENT,
    ) -> None:
        super().__init__(node, fingerprint)
        self._get, self._put, self._absent = get, put, absent
        self._received = -1

    def collect(self) -> tuple[dict[bytes, Any], list[bytes]]:
        """Return the state if the node has received anything."""
        received = self.node.meter.received
        if received == self._received or (state := self._get()) is self._absent:
            return {}, []
        self._received = received
        return {_WHOLE: state}, []

    def restore(self, fields: Mapping[bytes, Any], ghosts: Ghosts) -> None:  # noqa: ARG002
        """Set the state."""
        self._received = self.node.meter.received
        if _WHOLE in fields:
            self._put(fields[_WHOLE])


class Cells(Memory):
    """Elements that a node keeps for later ones, each stored once, and the layout in which it keeps them.

    get    returns the layout, with the origins of the elements, and the elements in a fixed order
    put    takes both, and how to get receipts
    """

    def __init__(
        self,
        node: Stream,
        fingerprint: str,
        *,
        get: Callable[[Any], tuple[Any, list[Any]]],
        put: Callable[[Any, Any, list[Any], Ghosts], None],
    ) -> None:
        super().__init__(node, fingerprint)
        self._get, self._put = get, put
        self._layout: Any = None
        self._cells: list[tuple[Any, bytes]] = []
        self._next = 0

    def collect(self) -> tuple[dict[bytes, Any], list[bytes]]:
        """Return the elements that are new, and the layout if it has changed."""
        layout, elements = self._get(self.node)
        changed: dict[bytes, Any] = {}
        known: defaultdict[int, deque[bytes]] = defaultdict(deque)
        for element, name in self._cells:  # which keep the elements alive, so that no id is used twice
            known[id(element)].append(name)
        cells = []
        for element in elements:
            if names := known.get(id(element)):
                name = names.popleft()
            else:
                name = b"%d" % self._next
                self._next += 1
                changed[name] = element
            cells.append((element, name))
        kept = {name for _, name in cells}
        gone = [name for _, name in self._cells if name not in kept]
        self._cells = cells
        if (placed := (layout, [int(name) for _, name in cells])) != self._layout:
            self._layout = placed
            if self._sizes or cells:  # an empty node that was never stored has nothing to store
                changed[_LAYOUT] = placed
        return changed, gone

    def restore(self, fields: Mapping[bytes, Any], ghosts: Ghosts) -> None:
        """Put the elements back in their places."""
        if _LAYOUT not in fields:
            return
        layout, serials = self._layout = fields[_LAYOUT]
        self._cells = [(fields[name], name) for name in (b"%d" % serial for serial in serials)]
        self._next = max(serials, default=-1) + 1
        self._put(self.node, layout, [element for element, _ in self._cells], ghosts)


class Seen(Memory):
    """The keys that `unique` has seen and never forgets: each is stored once."""

    def collect(self) -> tuple[dict[bytes, Any], list[bytes]]:
        """Return the keys that are new. A dict keeps its keys in order, so they are its last ones."""
        seen = self.node.seen
        new = []
        for key in reversed(seen):
            if len(new) == len(seen) - len(self._sizes):
                break
            new.append(key)
        return {STATES.encode(key): None for key in reversed(new)}, []

    def restore(self, fields: Mapping[bytes, Any], ghosts: Ghosts) -> None:  # noqa: ARG002
        """Have the node know these keys."""
        self.node.seen.update({STATES.decode(name): 1 for name in fields})


class Keyed(Memory):
    """States by key, of which those are stored that have changed.

    The node has `touched`, a set of the keys that have changed since the last cut, and the methods `stored_state(key)`, which
    returns ABSENT for a key that is gone, and `restore_states(states, ghosts)`. A node that keeps elements also has `keys_of(receipts)`.
    """

    def note_failures(self, failed: Collection[Receipt]) -> None:
        """Store the keys anew whose elements were made of entries that have failed."""
        if find := getattr(self.node, "keys_of", None):
            self.node.touched.update(find(failed))

    def collect(self) -> tuple[dict[bytes, Any], list[bytes]]:
        """Return the states of the keys that have changed, and the keys that are gone."""
        node, changed, gone = self.node, {}, []
        for key in node.touched:
            name = STATES.encode(key, where="key")
            if (state := node.stored_state(key)) is not ABSENT:
                changed[name] = state
            elif name in self._sizes:
                gone.append(name)
        node.touched.clear()
        return changed, gone

    def restore(self, fields: Mapping[bytes, Any], ghosts: Ghosts) -> None:
        """Set the states."""
        self.node.restore_states({STATES.decode(name): value for name, value in fields.items()}, ghosts)
