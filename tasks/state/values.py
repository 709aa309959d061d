"""The codec of kept state: that of state values, with entries as one more type."""

from typing import Any

from tasks.codec.state_values import Extension, StateCodec
from tasks.reservoir.entry import Entry

__all__ = ["STATES"]


def _parts(entry: Entry) -> tuple[Any, ...]:
    return dict(entry), entry.topic, entry.id, entry.deliveries, entry.origin, entry.own_time_ms


def _entry(parts: list[Any]) -> Entry:
    fields, topic, id_, deliveries, origin, *time_ms = parts  # states of 0.1.0 have no event time
    return Entry(
        fields, topic=topic, id=id_, deliveries=deliveries, origin=origin, time_ms=time_ms[0] if time_ms else None
    )


STATES = StateCodec([Extension(64, Entry, _parts, _entry)])
