"""How states become bytes: by the codec of state values, with entries as a type of their own."""

from typing import Any

from tasks.codec.state_values import Extension, StateCodec
from tasks.reservoir.entry import Entry

__all__ = ["STATES"]


def _parts(entry: Entry) -> tuple[Any, ...]:
    return dict(entry), entry.topic, entry.id, entry.deliveries, entry.origin


def _entry(parts: list[Any]) -> Entry:
    fields, topic, id_, deliveries, origin = parts
    return Entry(fields, topic=topic, id=id_, deliveries=deliveries, origin=origin)


STATES = StateCodec([Extension(64, Entry, _parts, _entry)])
