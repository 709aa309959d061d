"""A state comes back equal in value and type, and its bytes are those of the format."""

import copy
import datetime as dt
import json
import subprocess
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.codec import decode_state, encode_state
from tasks.errors import EncodeError
from tests.support.sameness import assert_same
from tests.support.states import assert_same_state, hashable, states
from tests.support.values import columns, foreign_object_column, frames, indexes, names

NAN = float("nan")
BERLIN = ZoneInfo("Europe/Berlin")


@given(states)
@example({NAN: 1, (NAN,): 2})
@example({2**64: "\ud800"})
@example(Decimal("sNaN123"))
@example(dt.datetime(2024, 3, 31, 2, 30, tzinfo=BERLIN))  # skipped by the clock
@example(dt.datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=1))
@example(pd.Timestamp("2024-10-27 01:30", tz="UTC").tz_convert("Europe/Berlin"))
@example(dt.timezone(dt.timedelta(seconds=1), "local"))
@example(np.array([[None, [1]], [(2,), {3}]], dtype=object, order="F"))
@example(np.array(object(), dtype="O").astype("U1"))
@example(np.array([(1, "x")], dtype=np.dtype([("a", "i1"), ("b", "U3")], align=True)))
@example(np.arange(12).reshape(3, 4)[::2, ::-1])
@example(np.bytes_(b"a\x00"))
@example([np.void(b"abc"), np.array([b"abc"], dtype="V3")])
def test_a_state_comes_back_equal_in_value_and_type(value: Any) -> None:
    assert_same_state(decode_state(encode_state(value)), value)


@given(frames() | st.integers(0, 6).flatmap(indexes))
def test_a_frame_or_index_comes_back_equal_or_is_refused(value: Any) -> None:
    try:
        data = encode_state({"last": value})
    except EncodeError as error:
        assert str(error).startswith("state['last']: ")  # noqa: PT017
        return
    assert_same(decode_state(data)["last"], value)


@given(st.integers(0, 4).flatmap(lambda n: columns(n) | foreign_object_column(n)), names)
def test_a_series_comes_back_equal_or_is_refused(array: Any, name: Any) -> None:
    series = pd.Series(array, dtype=array.dtype, name=name)
    try:
        data = encode_state((series, 1))
    except EncodeError:
        return
    assert_same(decode_state(data), (series, 1))


@pytest.mark.parametrize(
    "value",
    [
        pd.Categorical(["a", None, "b"], categories=["b", "a"], ordered=True),
        pd.Categorical([1, 2], categories=pd.Index([1, 2], name="code")),
        pd.Timestamp.max.tz_localize("UTC"),
        pd.Timedelta(5, "ns"),
        pd.Period("2024-01", "M"),
        pd.IntervalIndex.from_breaks(pd.to_datetime(["2024", "2025"]), closed="left")[0],
        pa.table({"a": [[1], None]}),
        pd.Series([Decimal(1)], name=("a", 1)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_of_pandas_or_arrow_comes_back_equal(value: Any) -> None:
    assert_same_state(decode_state(encode_state([value])), [value])


def test_keys_that_python_holds_to_be_equal_stay_one_key_of_the_first_type() -> None:
    value: dict[Any, str] = {1: "int"}
    value[1.0] = "float"
    value[True] = "bool"
    (key,) = decode_state(encode_state(value))
    assert type(key) is int
    for one in (1, 1.0, True, -0.0, Decimal(1), Fraction(1), np.float64(1), (1.0,), frozenset({True})):
        assert_same_state(decode_state(encode_state({one: "x"})), {one: "x"})
        assert decode_state(encode_state(one)) in {one: "x"}


@given(st.dictionaries(hashable, st.integers(), max_size=6))
def test_a_dict_keeps_the_order_of_its_insertions(value: dict[Any, int]) -> None:
    assert [*decode_state(encode_state(value)).values()] == [*value.values()]


def test_references_to_one_list_become_two_lists() -> None:
    shared = [1]
    first, second = decode_state(encode_state((shared, shared)))
    first.append(2)
    assert second == [1]


@given(states)
def test_encoding_leaves_a_value_as_it_is(value: Any) -> None:
    before = copy.deepcopy(value)
    encode_state(value)
    assert_same_state(value, before)


# The format. A changed line here needs a new number of the format, and a reader of the old one.
PINNED = [
    (None, "01c0"),
    (True, "01c3"),
    (5, "0105"),
    (-(2**63), "01d38000000000000000"),
    (2**64, "01c70c0991c409000000000000000001"),
    (1.5, "01cb3ff8000000000000"),
    ("sh600000", "01a87368363030303030"),
    ("\ud800", "01c7060a91c403eda080"),
    (b"ab", "01c4026162"),
    (bytearray(b"ab"), "01c7050b91c4026162"),
    ([1, "x"], "019201a178"),
    ((1.5, 3), "01c70b0192cb3ff800000000000003"),
    ({"sum": 2, "n": [1]}, "0182a373756d02a16e9101"),
    ({(1, 2): None}, "01d70492c70301920102c0"),
    ({1}, "01d5029101"),
    (frozenset({1}), "01d5039101"),
    (OrderedDict(a=1), "01d60592a16101"),
    (Counter("aa"), "01d60692a16102"),
    (defaultdict(list, a=[1]), "01c70a0793a46c697374a1619101"),
    (deque([1], 3), "01c70308920301"),
    (1j, "01c7130c92cb0000000000000000cb3ff0000000000000"),
    (Decimal("1.10"), "01c7060d91a4312e3130"),
    (Fraction(1, 3), "01c7030e920103"),
    (dt.datetime(2024, 1, 2, 3, 4, 5, 6), "01c70a0f97cd07e8010203040506"),
    (dt.datetime(2024, 1, 2, tzinfo=BERLIN), "01c71d0f99cd07e8010200000000c70f1491ad4575726f70652f4265726c696e00"),
    (dt.datetime(2024, 1, 2, tzinfo=dt.UTC), "01c70e0f99cd07e8010200000000d4139000"),
    (dt.date(2024, 1, 2), "01c7061093cd07e80102"),
    (dt.time(1, fold=1), "01c707119601000000c001"),
    (dt.timedelta(1, 2, 3), "01d61293010203"),
    (dt.timezone(dt.timedelta(hours=1), "X"), "01d71392ced693a400a158"),
    (UUID(int=1), "01c7131591c41000000000000000000000000000000001"),
    (range(0, 3, 2), "01d61693000302"),
    (slice(1, None), "01d6179301c0c0"),
    (np.float64(1.5), "01c70f2092a33c6638c408000000000000f83f"),
    (np.datetime64(1, ("s", 25)), "01c7142092a83c4d385b3235735dc4080100000000000000"),
    (np.longlong(1), "01c70d2092a171c4080100000000000000"),
    (np.str_("a"), "01c7032191a161"),
    (np.bytes_(b"a"), "01d62291c40161"),
    (np.array([[1, 2], [3, 4]], dtype="u1", order="F"), "01d82394a37c7531920202a146c40401030204"),
    (np.array([None], dtype=object), "01c7072394c09101a143c0"),
    (
        np.array([(1, b"x")], dtype=[("a", "u1"), ("b", "S1")]),
        "01c71823949292a161a37c753192a162a37c53319101a143c4020178",
    ),
    (pd.Timestamp("2024", tz="UTC"), "01d82893cf00060dd710212000a27573d41390"),
    (pd.Timedelta(1, "s"), "01c7092992ce000f4240a27573"),
    (pd.Period("2024-01", "M"), "01c7062a92cd0288a14d"),
    (pd.Interval(1, 2), "01c7092b930102a57269676874"),
    (pd.NaT, "01d42c90"),
    (pd.NA, "01d42d90"),
]


@pytest.mark.parametrize(("value", "data"), PINNED, ids=lambda value: repr(value)[:40])
def test_the_bytes_of_a_state_are_those_of_format_1(value: Any, data: str) -> None:
    assert encode_state(value).hex() == data
    assert_same_state(decode_state(bytes.fromhex(data)), value)


@pytest.mark.parametrize(
    ("value", "tag"),
    [(pd.DataFrame({"a": [1]}), 46), (pd.Series([1]), 46), (pd.Index([1]), 46), (pd.Categorical(["a"]), 47)],
    ids=lambda value: type(value).__name__,
)
def test_a_frame_is_an_arrow_stream_under_its_tag(value: Any, tag: int) -> None:
    found = msgspec.msgpack.decode(encode_state(value)[1:])
    (data,) = msgspec.msgpack.decode(found.data)
    assert found.code == tag
    assert pa.ipc.open_stream(data).read_all().num_rows == 1


def test_small_states_load_neither_pandas_nor_arrow() -> None:
    # Without the extra `dask`: streamz 0.6.6 imports dask and distributed where they are installed, and numpy with them.
    code = (
        "import sys, json\nsys.modules.update(dask=None, distributed=None)\nfrom tasks.codec import decode_state, encode_state\n"
        "decode_state(encode_state({(1, 2): [1.5, {3}]}))\nprint(json.dumps([*sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=240)
    assert not {"pandas", "pyarrow", "numpy"} & {*json.loads(done.stdout)}
