"""Entries of other programs are decoded as docs/other-programs.md describes, with the functions of that page."""

from typing import Any

import msgspec
import pytest

from tasks.codec import Decoding, decode_fields
from tests.support.documents import blocks


@pytest.fixture(scope="module")
def functions() -> dict[str, Any]:
    """Return the decode functions of the page by name."""
    found: dict[str, Any] = {}
    for block in blocks("python"):
        if block.page.name == "other-programs.md":
            exec(block.text.partition("@outlet")[0], found)
    return found


# As `publish(..., stream=...)` of FastStream 0.7.8 wrote it: {"code": "01234", "now": 1.5}, of two headers.
FASTSTREAM = (
    b"\x89BIN\r\n\x1a\n\x00\x01\x00\x00\x00\x12\x00\x00\x00j\x00\x02\x00\x0ecorrelation_id\x00$ad077bc6-0955-4322-b99c-174d6709ef5c"
    b'\x00\x0ccontent-type\x00\x10application/json{"code":"01234","now":1.5}'
)


@pytest.mark.parametrize(
    ("decode", "fields", "entry"),
    [
        (
            "text",  # walrus 0.9.8: add({"code": "01234", "now": 1.5, "n": 12345, "none": "null"})
            [(b"code", b"01234"), (b"now", b"1.5"), (b"n", b"12345"), (b"none", b"null")],
            {"code": "01234", "now": "1.5", "n": "12345", "none": "null"},
        ),
        ("auto", [(b"n", b"12345"), (b"raw", b"\x00\xff")], {"n": 12345, "raw": b"\x00\xff"}),
        ("from_faststream", [(b"__data__", FASTSTREAM)], {"message": {"code": "01234", "now": 1.5}}),
        (
            "auto",  # Redpanda Connect: body_key and metadata
            [(b"body", b'{"code":"01234"}'), (b"kafka_topic", b"quotes")],
            {"body": {"code": "01234"}, "kafka_topic": "quotes"},
        ),
        (
            "from_debezium",
            [(b'{"id":1}', b'{"op":"c","after":{"id":1}}')],
            {"key": {"id": 1}, "value": {"op": "c", "after": {"id": 1}}},
        ),
        (
            "json",
            [(b"key", b'{"id":1}'), (b"value", b'{"op":"c","after":{"id":1}}')],
            {"key": {"id": 1}, "value": {"op": "c", "after": {"id": 1}}},
        ),
        (
            "text",  # Spring's ObjectHashMapper
            [(b"_class", b"org.example.Person"), (b"firstname", b"rand"), (b"address.city", b"12345")],
            {"_class": "org.example.Person", "firstname": "rand", "address.city": "12345"},
        ),
        ("from_msgpack", [(b"data", msgspec.msgpack.encode({"celsius": 21.5}))], {"celsius": 21.5}),
        ("with_lists", [(b"a", b"1"), (b"b", b"x"), (b"a", b"02")], {"a": ["1", "02"], "b": ["x"]}),
    ],
    ids=[
        "walrus",
        "walrus auto",
        "faststream",
        "redpanda",
        "debezium compact",
        "debezium extended",
        "spring",
        "msgpack",
        "repeated",
    ],
)
def test_entries_of_other_programs_are_decoded(
    functions: dict[str, Any], decode: str, fields: list[tuple[bytes, bytes]], entry: dict[str, Any]
) -> None:
    assert decode_fields(fields, decoding=Decoding(decode=functions.get(decode, decode))) == entry
