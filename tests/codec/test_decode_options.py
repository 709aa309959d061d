"""With `decode`, fields of other programs keep their type, repeated names are not lost, and a function decodes any format."""

import datetime as dt
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import pandas as pd
import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st
from streamz import Stream

from flows import outlet
from flows.runtime.decorators import overridden
from flows.runtime.outlet_options import OutletOptions
from tasks import PoisonEntryError, Reservoir, SettingsError
from tasks.codec import Decoding, Limits, decode_fields, encode, encode_fields
from tasks.codec.fields import quick_decoder
from tasks.codec.json_text import SMALL
from tasks.testing import Bench
from tests.support.sameness import assert_same
from tests.support.values import json_values, text

Pairs = list[tuple[bytes, bytes]]
Word = Literal["auto", "text", "bytes", "json"]

TRICKY = ["01234", "12345", "null", "1e400", "true", "NaN", '"quoted"', "[1, 2", "", " 1 "]
names = text.filter(bool)
pairs_of = st.lists(st.tuples(names.map(str.encode), st.binary() | text.map(str.encode)), max_size=4)


@given(st.dictionaries(names, st.sampled_from(TRICKY) | text, max_size=4))
@example(dict(zip("abcdefghij", TRICKY, strict=True)))
def test_text_fields_of_any_form_keep_their_text(fields: dict[str, str]) -> None:
    raw = {name.encode(): value.encode() for name, value in fields.items()}
    assert_same(decode_fields(raw, decoding=Decoding(decode="text")), fields)


@given(st.dictionaries(names, st.binary(), max_size=4))
def test_bytes_fields_are_left_as_they_are(fields: dict[str, bytes]) -> None:
    raw = {name.encode(): value for name, value in fields.items()}
    assert_same(decode_fields(raw, decoding=Decoding(decode="bytes")), fields)


@given(st.dictionaries(names, json_values, min_size=1, max_size=4))
def test_json_fields_are_their_values(fields: dict[str, Any]) -> None:
    assert_same(decode_fields(encode_fields(fields), decoding=Decoding(decode="json")), fields)


@pytest.mark.parametrize(
    ("word", "data", "message"),
    [
        ("text", b"\xff", "expected text in UTF-8, got 1 other bytes; read the topic with decode='bytes'"),
        ("text", encode(pd.DataFrame({"a": [1]})), "expected text in UTF-8"),
        ("json", b"SECRET", "expected JSON, got 6 bytes of something else"),
        ("json", b"\xff", "expected JSON, got 1 bytes"),
        ("json", encode(b"SECRET"), "expected JSON"),
    ],
)
def test_a_field_that_is_something_else_is_poison_with_a_cure(word: Word, data: bytes, message: str) -> None:
    with pytest.raises(PoisonEntryError) as caught:
        decode_fields({b"x": data}, decoding=Decoding(decode=word))
    assert str(caught.value).startswith(f"field 'x': {message}")
    assert "SECRET" not in str(caught.value)


@given(pairs_of, st.sampled_from(["auto", "text", "bytes", "json"]))
def test_no_field_of_an_entry_is_lost_whichever_way_it_is_decoded(pairs: Pairs, word: Word) -> None:
    try:
        fields = decode_fields(pairs, decoding=Decoding(decode=word))
    except PoisonEntryError:
        return
    assert [name.encode() for name in fields] == [name for name, _ in pairs]


@given(pairs_of, st.sampled_from(["auto", "text", "bytes", "json"]))
def test_the_quick_way_agrees_with_the_long_one_or_leaves_it_the_entry(pairs: Pairs, word: Word) -> None:
    decoding = Decoding(decode=word)
    found: dict[str, Any] = {}
    flat = [part for pair in pairs for part in pair]
    if sum(map(len, flat)) <= SMALL and quick_decoder(decoding)(flat, found):
        assert repr(found) == repr(decode_fields(pairs, decoding=decoding))


@given(pairs_of)
def test_a_function_gets_all_fields_in_order_repeated_names_too(pairs: Pairs) -> None:
    given_pairs: list[Pairs] = []

    def function(fields: Pairs) -> dict[str, Any]:
        given_pairs.append(fields)
        return {"n": len(fields)}

    assert decode_fields(pairs, decoding=Decoding(decode=function)) == {"n": len(pairs)}
    assert given_pairs == [pairs]


@given(st.lists(st.tuples(st.sampled_from([b"a", b"b"]), st.integers().map(lambda n: b"%d" % n)), max_size=6))
def test_peek_shows_the_values_of_a_repeated_field_as_a_list(pairs: Pairs) -> None:
    expected: dict[str, list[int]] = {}
    for name, data in pairs:
        expected.setdefault(name.decode(), []).append(int(data))
    found = decode_fields(pairs, decoding=Decoding(lists_repeated=True))
    assert found == {name: values if len(values) > 1 else values[0] for name, values in expected.items()}


def raising(_: Pairs) -> dict[str, Any]:
    msg = "SECRET"
    raise ValueError(msg)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (raising, "decode function raising: expected it to return fields, it raised ValueError"),
        (lambda _: 1, "got a int"),
        (lambda _: {1: 2}, "got other keys"),
    ],
)
def test_a_function_that_returns_no_fields_makes_the_entry_poison(function: Any, message: str) -> None:
    with pytest.raises(PoisonEntryError) as caught:
        decode_fields([(b"x", b"SECRET")], decoding=Decoding(decode=function))
    assert message in str(caught.value)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("word", ["text", "bytes", "json", lambda pairs: {}])
def test_limits_hold_for_every_way_to_decode(word: Any) -> None:
    with pytest.raises(PoisonEntryError, match="at most 20 bytes"):
        decode_fields([(b"x", b"1" * 30)], limits=Limits(max_entry_bytes=20), decoding=Decoding(decode=word))


def test_an_unknown_word_is_an_error_of_the_settings() -> None:
    with pytest.raises(SettingsError, match="decode: expected 'auto' or 'text' or 'bytes' or 'json', got 'xml'"):
        Decoding(decode="xml")  # type: ignore[arg-type]


class Reading(msgspec.Struct):
    sensor: str
    celsius: float
    at: dt.datetime


def from_msgpack(fields: Pairs) -> Mapping[str, Any]:
    """Decode the one field of an entry, a MessagePack map, into typed values."""
    return msgspec.structs.asdict(msgspec.msgpack.decode(dict(fields)[b"data"], type=Reading))


def test_messagepack_is_decoded_by_a_function(client: redis.Redis) -> None:
    reading = Reading("attic", 21.5, dt.datetime(2026, 11, 30, tzinfo=dt.UTC))
    client.xadd("topic", {"data": msgspec.msgpack.encode(reading)})
    client.xadd("topic", {"data": b"\xc1"})
    with Bench(lambda source: source, client=client, options={"decode": from_msgpack}) as bench:
        bench.drain()
        bench.stop()
    assert [dict(result) for result in bench.results] == [msgspec.structs.asdict(reading)]
    (letter,) = Reservoir(client).peek("topic:dead:group", 5)
    assert isinstance(letter, dict)
    assert "decode function from_msgpack" in letter["dead:exception"]


@pytest.mark.parametrize(
    "decode", ["text", "bytes", lambda pairs: {name.decode(): data.decode() for name, data in pairs}]
)
def test_an_outlet_reads_entries_of_other_programs_with_its_option(client: redis.Redis, decode: Any) -> None:
    client.xadd("topic", {"code": "01234", "price": "1e400"})
    with Bench(lambda source: source, client=client, options={"decode": decode}) as bench:
        bench.drain()
        bench.stop()
    (result,) = bench.results
    assert {name: value if isinstance(value, str) else value.decode() for name, value in result.items()} == {
        "code": "01234",
        "price": "1e400",
    }


def test_a_repeated_field_is_a_dead_letter_with_all_its_values(client: redis.Redis) -> None:
    client.execute_command("XADD", "topic", "*", "a", "1", "a", "2")
    with Bench(lambda source: source, client=client) as bench:
        bench.drain()
        bench.stop()
    assert not bench.results
    ((_, flat),) = client.execute_command("XRANGE ", "topic:dead:group", "-", "+")
    assert flat[: flat.index(b"dead:topic")] == [b"a", b"1", b"a", b"2"]


def test_a_function_of_an_outlet_is_a_word_in_its_form_and_lasts_through_a_run() -> None:
    def every_field(fields: Pairs) -> dict[str, Any]:
        return {"fields": len(fields)}

    @outlet(topics="topic", group="group", decode=every_field)
    def flow(source: Stream) -> Stream:
        return source

    parameter = flow.parameters.properties["decode"]
    assert parameter["default"] == "function"
    assert set(parameter["enum"]) == {"auto", "text", "bytes", "json", "function"}
    options = OutletOptions(topics="topic", group="group", decode=every_field)
    assert overridden(options, {"decode": "function", "lease": "20s"}).decoding.decode is every_field
    assert overridden(options, {"decode": "text"}).decoding.decode == "text"
    with pytest.raises(SettingsError, match="decode: expected a function in the outlet's code"):
        OutletOptions(topics="topic", group="group", decode="function")


def test_peek_shows_repeated_fields_and_text_as_text(client: redis.Redis) -> None:
    client.execute_command("XADD", "topic", "*", "a", "01", "a", "2")
    for word, values in (("auto", ["01", 2]), ("text", ["01", "2"]), ("bytes", [b"01", b"2"])):
        decoding = Decoding(decode=word, lists_repeated=True)  # type: ignore[arg-type]
        for entries in (
            Reservoir(client).peek("topic", decoding=decoding),
            Reservoir(client).follow("topic", "0-0", n=1, block_ms=1, decoding=decoding),
        ):
            assert [dict(entry) for entry in entries if isinstance(entry, dict)] == [{"a": values}]
