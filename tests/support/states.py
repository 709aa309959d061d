"""Values that a state may hold, drawn by hypothesis, and how two of them are compared."""

import datetime as dt
import math
from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tests.support.sameness import assert_same
from tests.support.values import FREQS, object_array, scalars, zones

__all__ = ["assert_same_state", "hashable", "states"]


def assert_same_state(got: Any, want: Any) -> None:
    """Fail unless two values are equal with the same types, order, zones and bounds all the way down."""
    assert type(got) is type(want)
    if isinstance(want, (list, tuple, deque)):
        assert len(got) == len(want)
        assert getattr(got, "maxlen", None) == getattr(want, "maxlen", None)
        for one, other in zip(got, want, strict=True):
            assert_same_state(one, other)
    elif isinstance(want, dict):
        assert getattr(got, "default_factory", None) is getattr(want, "default_factory", None)
        assert_same_state([*got.items()], [*want.items()])
    elif isinstance(want, (set, frozenset)):
        assert got == want
        assert Counter(map(type, got)) == Counter(map(type, want))
    elif isinstance(want, slice):
        assert_same_state((got.start, got.stop, got.step), (want.start, want.stop, want.step))
    elif isinstance(want, (complex, range)):
        assert repr(got) == repr(want)
    elif isinstance(want, np.ndarray):
        assert (got.dtype, got.dtype.type, got.shape) == (want.dtype, want.dtype.type, want.shape)
        assert got.flags.f_contiguous or want.flags.c_contiguous or not want.flags.f_contiguous
        assert got.flags.writeable
        if want.dtype == object:
            assert_same_state(got.ravel().tolist(), want.ravel().tolist())
        else:
            assert got.tobytes() == want.tobytes()
    elif isinstance(want, (dt.datetime, dt.time)) and want is not pd.NaT:
        assert_same(got, want)
        assert_same_state(got.tzinfo, want.tzinfo)
    elif isinstance(want, pd.Interval):
        assert_same_state((got.left, got.right, got.closed), (want.left, want.right, want.closed))
    elif isinstance(want, pd.Categorical):
        assert_same(pd.Series(got), pd.Series(want))
    elif want is pd.NA or want is pd.NaT:
        assert got is want
    elif isinstance(want, float):
        assert math.isnan(got) if math.isnan(want) else (got, math.copysign(1, got)) == (want, math.copysign(1, want))
    else:
        assert_same(got, want)


number_dtypes = st.one_of(
    npst.boolean_dtypes(),
    npst.integer_dtypes(endianness="?"),
    npst.unsigned_integer_dtypes(endianness="?"),
    npst.floating_dtypes(endianness="?"),
    npst.complex_number_dtypes(endianness="?"),
    npst.datetime64_dtypes(endianness="?"),
    npst.timedelta64_dtypes(endianness="?"),
    npst.byte_string_dtypes(),
    npst.unicode_string_dtypes(endianness="?"),
    st.sampled_from([np.dtype("q"), np.dtype("Q"), np.dtype("g"), np.dtype("M8[25s]")]),
)
any_dtypes = number_dtypes | npst.array_dtypes(number_dtypes, allow_subarrays=True)
numbers = any_dtypes.flatmap(lambda dtype: npst.arrays(dtype, ())).map(lambda array: array[()])
periods = st.builds(
    lambda n, freq: pd.Period(ordinal=n, freq=freq), st.integers(-1_000, 30_000), st.sampled_from(FREQS)
)
intervals = st.builds(
    lambda bounds, closed: pd.Interval(*sorted(bounds), closed=closed),
    st.tuples(st.integers(-9, 9), st.floats(-9, 9)),
    st.sampled_from(["left", "right", "both", "neither"]),
)
small = st.none() | st.integers(-9, 9)

# NaN equals nothing, so it is no key that two dicts could be compared by; test_state_values.py has it as an example.
hashable_leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=())),  # with lone surrogates
    st.binary(),
    st.complex_numbers(allow_nan=False),
    st.decimals(allow_nan=False),
    st.fractions(),
    st.uuids(),
    zones,
    st.builds(dt.timezone, st.timedeltas(dt.timedelta(hours=-23), dt.timedelta(hours=23)), st.text(max_size=3)),
    st.times(timezones=st.none() | zones),
    st.builds(lambda when, fold: when.replace(fold=fold), st.datetimes(timezones=st.none() | zones), st.integers(0, 1)),
    st.dates(),
    st.timedeltas(),
    st.builds(lambda start, stop: range(start, stop, 3), st.integers(), st.integers()),
    periods,
    st.just(pd.NaT),
    st.just(pd.NA),
)
hashable = st.recursive(
    hashable_leaves,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
leaves = st.one_of(
    hashable_leaves,
    st.floats(),
    st.complex_numbers(),
    st.decimals(),
    st.binary().map(bytearray),
    st.builds(slice, small, small, small),
    scalars,
    numbers,
    st.text().map(np.str_),
    st.binary().map(np.bytes_),
    intervals,
    any_dtypes.flatmap(lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=0, min_side=0, max_side=3))),
    npst.arrays("f8", (2, 3)).map(np.asfortranarray),
)


def _containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    items = st.lists(inner, max_size=4)
    dicts = st.dictionaries(hashable, inner, max_size=4)
    return st.one_of(
        items,
        items.map(tuple),
        dicts,
        st.dictionaries(st.text(), inner, max_size=4),
        st.sets(hashable, max_size=4),
        st.builds(deque, items, st.none() | st.integers(0, 5)),
        dicts.map(OrderedDict),
        st.dictionaries(hashable, st.integers()).map(Counter),
        st.builds(defaultdict, st.sampled_from([int, float, list, dict, set, str, tuple, None]), dicts),
        items.map(object_array),
    )


states = st.recursive(leaves, _containers, max_leaves=12)
