"""Comparison of values with their types, for tests of the codec."""

import datetime as dt
import math
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["assert_same"]


def assert_same(got: Any, want: Any) -> None:
    """Fail unless two values are equal with the same types all the way down; NaN equals NaN, -0.0 not 0.0."""
    assert type(got) is type(want)
    if isinstance(want, pd.DataFrame):
        pd.testing.assert_frame_equal(got, want, check_exact=True, check_freq=True, check_flags=True)
        assert_same(got.columns, want.columns)
        assert_same(got.index, want.index)
        assert_same(got.attrs, want.attrs)
        for i in range(want.shape[1]):
            assert_same_values(got.iloc[:, i], want.iloc[:, i])
    elif isinstance(want, pd.Series):
        pd.testing.assert_series_equal(got, want, check_exact=True, check_freq=True, check_flags=True)
        assert_same(got.index, want.index)
        assert_same(got.attrs, want.attrs)
        assert_same_values(got, want)
    elif isinstance(want, pd.Index):
        pd.testing.assert_index_equal(got, want, exact=True, check_exact=True)
        assert getattr(got, "freq", None) == getattr(want, "freq", None)
        assert_same(list(got.names), list(want.names))
        if isinstance(want, pd.MultiIndex):
            assert [level.dtype for level in got.levels] == [level.dtype for level in want.levels]
        else:
            assert_same_values(got, want)
    elif isinstance(want, np.ndarray) and want.dtype == object:
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        assert_same(got.tolist(), want.tolist())
    elif isinstance(want, np.ndarray):
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        assert got.tobytes() == want.tobytes()
    elif isinstance(want, np.generic):
        assert got.dtype == want.dtype
        assert got.tobytes() == want.tobytes() or got == want  # a long double has bytes that mean nothing
    elif isinstance(want, float):
        assert math.isnan(got) if math.isnan(want) else (got, math.copysign(1, got)) == (want, math.copysign(1, want))
    elif isinstance(want, (list, tuple)):
        assert len(got) == len(want)
        for one, other in zip(got, want, strict=True):
            assert_same(one, other)
    elif isinstance(want, dict):
        assert list(got) == list(want)
        for key in want:
            assert_same(got[key], want[key])
    elif isinstance(want, Decimal):
        assert str(got) == str(want)
    elif isinstance(want, (dt.datetime, dt.time)):
        assert (got.isoformat(), got.fold, getattr(got, "unit", None)) == (
            want.isoformat(),
            want.fold,
            getattr(want, "unit", None),
        )
    else:
        assert got == want


def assert_same_values(got: Any, want: Any) -> None:
    if isinstance(want.dtype, np.dtype) and want.dtype.kind == "f":
        assert (np.signbit(got.to_numpy()) == np.signbit(want.to_numpy()))[~np.isnan(want.to_numpy())].all()
    if want.dtype == object:
        for one, other in zip(got.tolist(), want.tolist(), strict=True):
            assert_same(one, other)
