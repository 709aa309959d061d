"""What no state may hold is refused with its place and a remedy, unless an extension adds it."""

import dataclasses
import datetime as dt
import enum
import typing
from collections import Counter, OrderedDict, UserDict, defaultdict, deque, namedtuple
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.codec import Extension, StateCodec, decode_state, encode_state
from tasks.errors import EncodeError, PoisonEntryError, SettingsError
from tasks.reservoir.entry import Entry
from tests.support.states import assert_same_state, states


class Level(enum.IntEnum):
    LOW = 1


class Side(enum.Enum):
    BUY = "buy"


Pair = namedtuple("Pair", ["a", "b"])


class Named(typing.NamedTuple):
    a: int


@dataclasses.dataclass
class Order:
    code: str


class Struct(msgspec.Struct):
    a: int


class Model(pydantic.BaseModel):
    a: int


class MyDict(dict):
    pass


class MyArray(np.ndarray):
    pass


class MyZone(dt.tzinfo):
    def utcoffset(self, when: Any) -> dt.timedelta:
        return dt.timedelta(0)


def tagged_counter() -> Counter[str]:
    found = Counter("a")
    found.note = "x"  # pyright: ignore[reportAttributeAccessIssue]
    return found


DICT = "use a dict or a tuple, or keep_state=False"
REFUSED: list[tuple[Any, str, str]] = [
    (Level.LOW, "got tests's Level", "use int(), or keep_state=False"),
    (Side.BUY, "got tests's Side", DICT),
    (Pair(1, 2), "got tests's Pair", DICT),
    (Named(object()), "got tests's Named", DICT),
    (Order("x"), "got tests's Order", DICT),
    (Struct(1), "got tests's Struct", DICT),
    (Model(a=1), "got tests's Model", DICT),
    (MyDict(a=object()), "got tests's MyDict", DICT),
    (UserDict(a=1), "got collections's UserDict", DICT),
    (lambda: 1, "got function", DICT),
    (object(), "got object", DICT),
    (memoryview(b"x"), "got memoryview", DICT),
    (defaultdict(lambda: 1), "expected a default factory out of int, float, list, dict, set, str, tuple", "use a dict"),
    (tagged_counter(), "expected a Counter without attributes", "use a dict"),
    (dt.datetime(2024, 1, 1, tzinfo=MyZone()), "got tests's MyZone", "use zoneinfo.ZoneInfo(NAME)"),
    (np.zeros(2).view(MyArray), "got tests's MyArray", DICT),
    (np.ma.masked_array([1], [True]), "got numpy's MaskedArray", DICT),
    (np.rec.array([(1,)], dtype=[("a", "i4")]), "got numpy's recarray", DICT),
    (np.rec.array([(1,)], dtype=[("a", "i4")]).view(np.ndarray), "objects or records", "use astype()"),
    (np.zeros(1, dtype=[("a", "i4"), ("b", "O")]), "objects or records", "use astype()"),
    (np.zeros(1, dtype=np.dtype("i4", metadata={"a": 1})), "got one with metadata", "use astype()"),
    (np.array(["a"], dtype=np.dtypes.StringDType()), "objects or records", "use astype()"),
    (pd.DataFrame({"a": [(1,)]}), "column 'a': expected objects of one type", "or keep_state=False"),
    (pd.DataFrame([[1, 2]], columns=["a", "a"]), "expected unique column names", "rename one"),
    (pd.Series([1], name=frozenset()), "name of a column or index", "rename it"),
    (pd.RangeIndex(10**9), "expected at most 10,000,000 rows", "or keep_state=False"),
    (pd.offsets.Day(), "got pandas's Day", DICT),
]


@pytest.mark.parametrize(("value", "got", "cure"), REFUSED, ids=[type(value).__name__ for value, *_ in REFUSED])
def test_a_type_that_no_state_holds_is_refused_with_its_place_and_a_cure(value: Any, got: str, cure: str) -> None:
    with pytest.raises(EncodeError) as caught:
        encode_state({"codes": [0, (1, value)]}, where="node 'sums'")
    message = str(caught.value)
    assert message.startswith("node 'sums'['codes'][1][1]: ")
    assert "expected " in message
    assert got in message
    assert cure in message
    assert message.endswith("or keep_state=False")


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": {(1, 2): object()}}, "state['a'][tuple]: "),
        ({(1, Pair(1, 2)): 1}, "state (a key)[1]: "),
        ({frozenset({Side.BUY})}, "state (an item) (an item): "),
        (deque([1, object()]), "state[1]: "),
        (OrderedDict({b"x": object()}), "state[b'x']: "),
        ({"k" * 99: object()}, f"state['{'k' * 36}...]: "),
    ],
)
def test_path_to_a_refused_value_goes_through_every_container(value: Any, path: str) -> None:
    with pytest.raises(EncodeError) as caught:
        encode_state(value)
    assert str(caught.value).startswith(path)


def nested(levels: int, around: Any) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = around(value)
    return value


@pytest.mark.parametrize("around", [lambda x: [x], lambda x: (x,), lambda x: {"a": x}, lambda x: deque([x])])
def test_a_state_has_at_most_100_levels(around: Any) -> None:
    value = nested(100, around)
    assert decode_state(encode_state(value)) == value
    for levels in (101, 500):
        with pytest.raises(EncodeError, match=r"^state: expected at most 100 levels, got more, .*keep_state=False"):
            encode_state(nested(levels, around))


def test_a_container_that_holds_itself_is_refused() -> None:
    own_list: list[Any] = [1]
    own_list.append(own_list)
    own_dict: dict[str, Any] = {}
    own_dict["self"] = (own_dict, own_dict)
    own_deque: deque[Any] = deque()
    own_deque.append(own_deque)
    for value in (own_list, own_dict, own_deque):
        with pytest.raises(EncodeError, match="a container that holds itself"):
            encode_state(value)


def entry_parts(entry: Entry) -> tuple[Any, ...]:
    return (dict(entry), entry.topic, entry.id, entry.deliveries, entry.origin)


def entry_of(parts: list[Any]) -> Entry:
    fields, topic, id_, deliveries, origin = parts
    return Entry(fields, topic=topic, id=id_, deliveries=deliveries, origin=origin)


ENTRIES = StateCodec([Extension(64, Entry, entry_parts, entry_of)])


@given(st.dictionaries(st.text(), states, max_size=3))
def test_an_extension_keeps_a_class_that_the_codec_cannot_import(fields: dict[str, Any]) -> None:
    entry = Entry(fields, topic="market", id="5-1", deliveries=2, origin=("other", "1-0"))
    (found,) = ENTRIES.decode(ENTRIES.encode((entry,)))
    assert type(found) is Entry
    assert_same_state(entry_parts(found), entry_parts(entry))


def test_refused_value_inside_an_extension_has_its_path() -> None:
    entry = Entry({"quotes": [1, object()]}, topic="market", id="5-1")
    with pytest.raises(EncodeError, match=r"^state\[0\]\['quotes'\]\[1\]: expected .*, got object"):
        ENTRIES.encode([entry])
    with pytest.raises(EncodeError, match="got tasks's Entry"):
        encode_state(entry)
    with pytest.raises(PoisonEntryError, match="expected a type that this codec knows, got tag 64"):
        decode_state(ENTRIES.encode(Entry({}, topic="market", id="5-1")))


@pytest.mark.parametrize(
    "extensions",
    [
        [Extension(63, Entry, entry_parts, entry_of)],
        [Extension(128, Entry, entry_parts, entry_of)],
        [Extension(64, tuple, entry_parts, entry_of)],
        [Extension(64, int, entry_parts, entry_of)],
        [Extension(64, list, entry_parts, entry_of)],
        [Extension(64, Entry, entry_parts, entry_of), Extension(64, Order, entry_parts, entry_of)],
        [Extension(64, Entry, entry_parts, entry_of), Extension(65, Entry, entry_parts, entry_of)],
    ],
)
def test_an_extension_needs_a_tag_and_a_type_of_its_own(extensions: list[Extension]) -> None:
    with pytest.raises(SettingsError, match="expected a tag from 64 to 127 and a type, each once"):
        StateCodec(extensions)
