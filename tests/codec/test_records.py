"""Dataclasses, named tuples, msgspec structs and pydantic models are entries, and come back as dicts."""

import dataclasses
import datetime as dt
from collections import namedtuple
from typing import Any, NamedTuple

import msgspec
import pandas as pd
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.codec import decode_fields, encode_fields
from tasks.codec.records import as_dict, is_record
from tasks.errors import EncodeError
from tasks.nodes.to_redis import as_fields
from tasks.pump.returned import as_entries
from tests.support.sameness import assert_same
from tests.support.values import json_values


@dataclasses.dataclass
class DataQuote:
    code: str
    now: Any
    parts: Any = None


@dataclasses.dataclass(frozen=True, slots=True)
class SlottedQuote:
    code: str
    now: Any
    parts: Any = None


class TupleQuote(NamedTuple):
    code: str
    now: Any
    parts: Any = None


class StructQuote(msgspec.Struct, rename="camel", tag=True):
    code: str
    now: Any
    parts: Any = None


class ModelQuote(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    code: str
    now: Any
    parts: Any = None


KINDS = [DataQuote, SlottedQuote, TupleQuote, StructQuote, ModelQuote]
every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
@given(now=json_values | st.dates(), inner=json_values)
def test_a_record_is_an_entry_of_its_fields(kind: Any, now: Any, inner: Any) -> None:
    record = kind(code="a", now=now, parts=[kind(code="b", now=inner), {"x": kind(code="c", now=1)}])
    expected = {
        "code": "a",
        "now": now,
        "parts": [{"code": "b", "now": inner, "parts": None}, {"x": {"code": "c", "now": 1, "parts": None}}],
    }
    assert_same(decode_fields(encode_fields(record)), expected)
    for entries in (as_entries(record, name="pump"), as_entries([record, record], name="pump")):
        assert_same(dict(entries[0]), expected)
    assert_same(dict(as_fields(record)), expected)


@every_kind
def test_a_record_may_hold_a_frame_and_moments(kind: Any) -> None:
    frame = pd.DataFrame({"a": [1, 2]})
    found = decode_fields(encode_fields(kind(code="a", now=dt.date(2026, 1, 1), parts=frame)))
    assert_same(found, {"code": "a", "now": dt.date(2026, 1, 1), "parts": frame})


@pytest.mark.parametrize(
    ("kind", "cure"),
    [
        (DataQuote, "use dataclasses.asdict()"),
        (TupleQuote, "use list() or ._asdict()"),
        (StructQuote, "use msgspec.structs.asdict()"),
        (ModelQuote, "use .model_dump()"),
    ],
)
def test_record_in_a_mapping_is_refused_with_the_call_that_makes_a_dict(kind: Any, cure: str) -> None:
    value = kind(code="a", now=1)
    for fields in ({"x": value}, {"x": [value]}):
        with pytest.raises(EncodeError) as caught:
            encode_fields(fields)
        assert cure in str(caught.value)


def test_fields_beyond_the_declared_ones() -> None:
    class Open(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="allow")
        a: int

        @pydantic.computed_field
        @property
        def double(self) -> int:
            return 2 * self.a

    class Partial(msgspec.Struct):
        a: int
        b: int | msgspec.UnsetType = msgspec.UNSET

    assert as_dict(Open(a=1, b=2)) == {"a": 1, "b": 2, "double": 2}  # type: ignore[call-arg]
    assert as_dict(Partial(1)) == {"a": 1}
    assert as_dict(namedtuple("Row", "x y")(0, 5)) == {"x": 0, "y": 5}
    assert [dict(entry) for entry in as_entries(pd.DataFrame({"x": [5]}).itertuples(), name="pump")] == [
        {"Index": 0, "x": 5}
    ]


@pytest.mark.parametrize("value", [1, "a", {"a": 1}, [1], (1, 2), DataQuote, ModelQuote, object(), None])
def test_anything_else_is_no_record(value: Any) -> None:
    assert not is_record(value)
