"""Plain values and fields come back equal or are refused, and no message contains a payload."""

import datetime as dt
import enum
import json
import math
from collections import OrderedDict, namedtuple
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.codec.fields import _NAMES, decode_fields, decode_small
from tasks.codec.json_text import SMALL, SMALL_WEIGHT, json_weight
from tasks.codec.values import DEFAULT_LIMITS, decode, encode, encode_fields
from tasks.errors import EncodeError, PoisonEntryError
from tests.support.sameness import assert_same
from tests.support.values import json_values


@given(json_values)
@example(-0.0)
@example(math.inf)
@example(math.nan)
@example(10**4300 - 1)
@example("null")
@example("\ufeff{}")
@example('{"a": [1, 2]}')
def test_a_value_that_json_holds_comes_back_equal_with_its_types(value: Any) -> None:
    assert_same(decode(encode(value)), value)


@given(st.binary())
@example(b"")
@example(b"\xff\xff\xff\xff")
@example(b"\xfebytes:")
@example(b'{"a": 1}')
def test_bytes_of_any_kind_come_back_equal(value: bytes) -> None:
    assert_same(decode(encode(value)), value)


@given(json_values | st.binary())
def test_values_of_the_two_simple_kinds_never_look_like_an_arrow_stream(value: Any) -> None:
    assert not encode(value).startswith(b"\xff\xff\xff\xff")


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (None, b"null"),
        (True, b"true"),
        (-0.0, b"-0.0"),
        (math.nan, b"NaN"),
        (-math.inf, b"-Infinity"),
        ("né", '"né"'.encode()),
        ({"a": [1, 2.5]}, b'{"a":[1,2.5]}'),
        (b"\x00", b"\xfebytes:\x00"),
    ],
)
def test_redis_cli_shows_simple_values_as_they_are(value: Any, data: bytes) -> None:
    assert encode(value) == data


class Colour(enum.IntEnum):
    RED = 1


class Text(str):
    __slots__ = ()


Point = namedtuple("Point", "x y")
deep: list[Any] = []
for _ in range(100):
    deep = [deep]
circle: list[Any] = []
circle.append(circle)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ((1, 2), "got tuple; use list()"),
        ([1, (2,)], "[1]: expected None, bool, int, float, str, list or dict, got tuple; use list()"),
        ({"a": {"b": [0, {1}]}}, "['a']['b'][1]: "),
        ({1: "x"}, "expected keys that are str, got one of int; use str(key)"),
        ({"a": {True: "x"}}, "['a']: expected keys that are str, got one of bool"),
        ({Text("a"): 1}, "expected keys that are str"),
        ([Colour.RED], "[0]: "),
        (Colour.RED, "use int()"),
        (Text("x"), "use str()"),
        (OrderedDict(a=1), "use dict()"),
        (Point(1, 2), "use list()"),
        ([np.float64(1)], "got numpy's float64; use .item()"),
        ([np.True_], "use .item()"),
        ([b"x"], "got bytes"),
        ([pd.DataFrame()], "[0]: expected None, bool, int, float, str, list or dict, got pandas's DataFrame"),
        ({"a": "\ud800"}, "['a']: expected text that UTF-8 can hold, got a lone surrogate"),
        ({"\ud800": 1}, "lone surrogate"),
        (10**4300, "expected ints of at most 4,300 digits"),
        ([10**5000], "expected ints of at most 4,300 digits"),
        (deep, "expected at most 100 levels"),
        (circle, "expected at most 100 levels"),
        (bytearray(b"x"), "use bytes()"),
        ({1, 2}, "use sorted() or list()"),
        (object(), "got object"),
        (1j, "got complex"),
        (pd.NaT, "got pandas's NaTType"),
        (pd.NA, "got pandas's NAType"),
        (lambda: 1, "got function"),
        (pd.Period("2020-01"), "Period"),
        (dt.UTC, "timezone"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_value_that_would_change_is_refused_with_its_path_and_a_remedy(value: Any, message: str) -> None:
    with pytest.raises(EncodeError) as caught:
        encode_fields({"x": value})
    assert str(caught.value).startswith("field 'x'")
    assert message in str(caught.value)


def test_a_frame_in_a_list_is_refused_with_the_path_to_it() -> None:
    with pytest.raises(EncodeError, match=r"^field 'x'\[2\]\['a'\]: .*DataFrame"):
        encode_fields({"x": [0, 1, {"a": pd.DataFrame()}]})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "got an empty one"),
        ([("a", 1)], "got list"),
        (None, "got NoneType"),
        (pd.DataFrame({"a": [1]}), "got DataFrame"),
        ({"": 1}, "non-empty str, got an empty one"),
        ({1: 1}, "non-empty str, got int"),
        ({"\ud800": 1}, "lone surrogate"),
    ],
)
def test_only_a_mapping_of_names_to_values_is_an_entry(fields: Any, message: str) -> None:
    with pytest.raises(EncodeError, match=message):
        encode_fields(fields)


def test_a_field_name_that_is_no_utf8_is_poison() -> None:
    with pytest.raises(PoisonEntryError, match="field names in UTF-8, got one of 2 other bytes"):
        decode_fields({b"\xff\xfe": b"1"})


@pytest.mark.parametrize("secret", [b"\xff\xff\xff\xffSECRET", b"[" * 10**5 + b"SECRET", b"1" * 5000 + b"SECRET"])
def test_a_message_names_the_field_and_never_the_payload(secret: bytes) -> None:
    with pytest.raises(PoisonEntryError, match="^field 'quotes': ") as caught:
        decode_fields({b"quotes": secret})
    assert "SECRET" not in str(caught.value)
    with pytest.raises(EncodeError, match="^field 'quotes': ") as refused:
        encode_fields({"quotes": pd.DataFrame({"a": ["SECRET", 1]})})
    assert "SECRET" not in str(refused.value)


json_texts = st.recursive(  # values that all JSON parsers know
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
).map(lambda value: json.dumps(value).encode())
odd_bytes = st.binary() | st.sampled_from(
    [b"", b" 1", b"1 ", b"1 2", b"\xfebytes:x", b"9" * 5_000, b"[" * 10_000, b"NaN", b"[-Infinity]", b"nope"]
)


@given(fields=st.dictionaries(st.binary(max_size=5), json_texts | odd_bytes, max_size=3))
def test_quick_decoding_of_small_entries_agrees_with_the_full_one_or_declines(
    fields: dict[bytes, bytes],
) -> None:
    found: dict[str, Any] = {}
    if decode_small([part for pair in fields.items() for part in pair], found):
        assert repr(found) == repr(decode_fields(fields))


def test_names_of_fields_are_remembered_up_to_a_bound() -> None:
    names = [f"name {n}" for n in range(2_000)] + ["n" * 5_000]
    for _ in range(2):
        for name in names:
            found: dict[str, Any] = {}
            assert decode_small([name.encode(), b"1", b"x", b"2"], found)
            assert found == {name: 1, "x": 2}
    assert len(_NAMES) <= 1_000
    assert max(map(len, _NAMES)) <= 100


@given(text=json_texts)
def test_plain_json_is_decoded_the_quick_way(text: bytes) -> None:
    assert decode_small([b"n", text], {})


def test_quickly_decoded_entries_never_exceed_the_limits() -> None:
    worst = [bytes([byte]) * SMALL for byte in range(128)]
    assert (
        max(json_weight(b"[" + text) - 36 for text in worst) <= SMALL_WEIGHT * SMALL < DEFAULT_LIMITS.max_decoded_bytes
    )
