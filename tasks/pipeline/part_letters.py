"""Dead letters of parts of elements: rows that a node refuses, while it takes the other rows of their frame."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.codec import encode_fields
from tasks.errors import EncodeError
from tasks.pipeline.receipts import Failure, Receipt
from tasks.reservoir.entry import NODE_FIELD, with_time

__all__ = ["ROWS", "PartLetter", "part_letter"]

ROWS = "rows"
"""The field of a dead letter that has the refused rows."""


@dataclass(frozen=True, slots=True)
class PartLetter:
    """A part of an element, to be stored with the acknowledgement of the entry that the element was made of.

    topic, id   that the entry was read under
    fields      encoded; the last ones name the node, which gets the rows back in a replay, and the event time
    """

    topic: str
    id: str
    fields: Mapping[bytes, bytes]
    failure: Failure


def part_letter(receipt: Receipt, rows: Any, *, node: str, side: int, error: Exception) -> PartLetter:
    """Return the letter of rows that a node has refused.

    side     the number of the upstream that the frame came from
    raises   Exception: `error`, if the rows cannot be stored
    """
    try:
        fields = encode_fields({ROWS: rows})
    except EncodeError:
        raise error from None
    fields[NODE_FIELD] = f"{side} {node}".encode()
    return PartLetter(receipt.topic, receipt.id, with_time(fields, receipt.time_ms), Failure(node, error))
