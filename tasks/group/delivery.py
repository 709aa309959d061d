"""Decoding of the entries that a consumer returns; replayed ones get the topic and id they were pushed under."""

from collections.abc import Iterable
from dataclasses import dataclass

from tasks.codec.decoding import DEFAULT_DECODING
from tasks.codec.fields import quick_decoder
from tasks.codec.json_text import SMALL
from tasks.errors import PoisonEntryError
from tasks.group.dead_letters import take_out_id
from tasks.group.merging import Raw
from tasks.group.parts import Parts
from tasks.reservoir.entry import TIME_FIELD, Entry, NodeInput, made, take_out_node, take_out_time
from tasks.reservoir.keys import retried_topic
from tasks.reservoir.reservoir import decoded

__all__ = ["Undecodable", "delivered"]


@dataclass(frozen=True, slots=True)
class Undecodable:
    """An entry that cannot be decoded: the topic and id that it was read under, and the reason."""

    origin: tuple[str, str]
    error: PoisonEntryError


def delivered(
    topic: str,
    raws: Iterable[Raw],
    group: str,
    *,
    deliveries: dict[tuple[str, str], int],
    parts: Parts,
) -> list[Entry | Undecodable]:
    """Decode entries that were read from a topic.

    deliveries   how often some entries were delivered; theirs are removed from it
    parts        how fields become values, and the memory that an entry may take
    """
    entries: list[Entry | Undecodable] = []
    retried = retried_topic(topic, group)
    is_decoded = quick_decoder(parts.decoding)
    for id_, flat, size in raws:
        entry = made(topic, id_, deliveries.pop((topic, id_), 1) if deliveries else 1)
        if retried is not None:
            entry.topic, entry.id = retried, take_out_id(flat) or id_
        if flat and flat[-2] == TIME_FIELD:
            entry._time_ms = take_out_time(flat)
        address = None if retried is None else take_out_node(flat)
        if address is None and size <= SMALL and is_decoded(flat, entry):
            entries.append(entry)
            continue
        value = decoded(
            entry.topic,
            entry.id,
            list(zip(flat[::2], flat[1::2], strict=True)),
            deliveries=entry.deliveries,
            origin=entry.origin,
            time_ms=entry.own_time_ms,
            budget=parts.budget((topic, id_)),
            decoding=parts.decoding if address is None else DEFAULT_DECODING,
        )
        if isinstance(value, PoisonEntryError):
            entries.append(Undecodable(entry.origin, value))
        else:
            entries.append(value if address is None else NodeInput(value, *address))
    return entries
