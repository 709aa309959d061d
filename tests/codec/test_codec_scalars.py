"""Moments, decimals and arrays come back equal from the codec, or are refused."""

import datetime as dt
import math
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tasks.codec import decode, encode, encode_fields
from tasks.errors import EncodeError
from tests.support.sameness import assert_same
from tests.support.values import scalars


@given(scalars)
@example(Decimal("-0.00"))
@example(Decimal("sNaN"))
@example(Decimal("1E+999999"))
@example(dt.datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1))
def test_a_moment_or_decimal_comes_back_equal_or_is_refused(value: Any) -> None:
    try:
        data = encode(value)
    except EncodeError:
        nonexistent_or_folded = getattr(value, "fold", 0) or getattr(value, "tzinfo", None)
        assert nonexistent_or_folded
        return
    assert_same(decode(data), value)


@pytest.mark.parametrize(
    "value",
    [
        dt.datetime(2024, 1, 1, tzinfo=ZoneInfo("Europe/Berlin")),
        dt.datetime(1, 1, 1),
        dt.datetime.max,
        pd.Timestamp("2024-01-01 00:00:00.123456789", tz="Asia/Tokyo"),
        pd.Timestamp.max,
        pd.Timestamp.min,
        pd.Timedelta.min,
        dt.time(23, 59, 59, 999999),
        Decimal("1.10"),
        np.datetime64("2024-01", "M"),
        np.datetime64("NaT", "s"),
        np.str_(""),
        np.str_("né"),
        np.bytes_(b"a"),
        np.bool_(True),
        np.float16(1.5),
        np.longdouble(1) / 3,
        np.complex64(1j),
    ],
    ids=repr,
)
def test_a_scalar_comes_back_equal(value: Any) -> None:
    assert_same(decode(encode(value)), value)


@pytest.mark.parametrize(
    "value",
    [
        dt.datetime(2024, 3, 31, 2, 30, tzinfo=ZoneInfo("Europe/Berlin")),  # skipped by the clock
        dt.datetime(2024, 1, 1, fold=1),
        dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(seconds=1))),
        dt.time(1, tzinfo=dt.UTC),
        dt.time(1, fold=1),
        dt.timedelta.max,
        np.bytes_(b"a\x00"),
    ],
    ids=repr,
)
def test_a_scalar_that_arrow_would_change_is_refused(value: Any) -> None:
    with pytest.raises(EncodeError, match="^field 'x': expected"):
        encode_fields({"x": value})


number_dtypes = st.one_of(
    npst.boolean_dtypes(),
    npst.integer_dtypes(),
    npst.unsigned_integer_dtypes(),
    npst.floating_dtypes(),
    npst.complex_number_dtypes(),
    npst.datetime64_dtypes(),
    npst.timedelta64_dtypes(),
    npst.byte_string_dtypes(),
    npst.unicode_string_dtypes(),
)


@given(
    npst.arrays(
        number_dtypes | npst.array_dtypes(number_dtypes, allow_subarrays=True),
        npst.array_shapes(min_dims=0, min_side=0, max_dims=3, max_side=4),
    )
)
@example(np.empty((0, 3)))
@example(np.asfortranarray(np.arange(6).reshape(2, 3)))
@example(np.arange(10)[::-2])
@example(np.array(5))
@example(np.array([math.nan, -0.0]))
def test_an_array_of_any_shape_and_dtype_comes_back_equal_and_writable(value: np.ndarray) -> None:
    got = decode(encode(value))
    assert_same(got, value)
    assert got.flags.writeable


@pytest.mark.parametrize(
    "value",
    [
        np.array([None]),
        np.array([("a", None)], dtype=[("a", "U1"), ("b", "O")]),
        np.ma.masked_array([1, 2], mask=[True, False]),
        np.rec.array([(1,)], dtype=[("a", "i4")]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_array_that_would_lose_something_is_refused(value: Any) -> None:
    with pytest.raises(EncodeError):
        encode(value)
