"""Partitioned topics: one stable hash for equal keys, names of partitions, and a partitioning that is declared once."""

import math
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from hashlib import blake2b
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from tasks import Reservoir
from tasks.errors import EncodeError, SettingsError, UnreadableTopicError
from tasks.group.removal import drop_topic
from tasks.reservoir.partitions import (
    Partitioning,
    declare,
    declared,
    partition_for,
    partition_of,
    partition_topic,
)
from tasks.reservoir.topic_names import check_topic
from tests.support.topics import topic_names

MOST = 2**31  # a number of partitions with which different texts differ
NEW_YEAR = 1_735_689_600_000_000_000
BERLIN = timezone(timedelta(hours=1))

# Keys and their text. These are promises: a changed one would move entries to other partitions.
TEXTS: list[tuple[Any, str]] = [
    ("", ""),
    ("600000", "600000"),
    ("贵州茅台", "贵州茅台"),
    (b"600000", "600000"),
    (np.str_("600000"), "600000"),
    (600000, "600000"),
    (np.int32(600000), "600000"),
    (np.uint64(2**64 - 1), "18446744073709551615"),
    (-1, "-1"),
    (True, "1"),
    (np.True_, "1"),
    (False, "0"),
    (1.0, "1"),
    (-0.0, "0"),
    (np.float32(1.0), "1"),
    (Decimal("1.00"), "1"),
    (1e22, "10000000000000000000000"),
    (0.1, "0.1"),
    (np.float64(0.1), "0.1"),
    (np.float32(0.1), "0.10000000149011612"),
    (Decimal("0.5"), "0.5"),
    (Decimal("0.10"), "0.1"),
    (Decimal("123456789012345678901234567890.50"), "123456789012345678901234567890.5"),
    (math.inf, "inf"),
    (-math.inf, "-inf"),
    (Decimal("Infinity"), "inf"),
    (None, ""),
    (math.nan, ""),
    (np.float32("nan"), ""),
    (Decimal("NaN"), ""),
    (pd.NA, ""),
    (pd.NaT, ""),
    (np.datetime64("NaT"), ""),
    (np.timedelta64("NaT"), ""),
    (datetime(2025, 1, 1), f"{NEW_YEAR}"),
    (datetime(2025, 1, 1, tzinfo=UTC), f"{NEW_YEAR}"),
    (datetime(2025, 1, 1, 1, tzinfo=BERLIN), f"{NEW_YEAR}"),
    (pd.Timestamp(2025, 1, 1, tz="UTC"), f"{NEW_YEAR}"),
    (pd.Timestamp("2025-01-01 01:00", tz="Europe/Berlin"), f"{NEW_YEAR}"),
    (pd.Timestamp("2025-01-01 00:00:00.000000001"), f"{NEW_YEAR + 1}"),
    (np.datetime64("2025"), f"{NEW_YEAR}"),
    (np.datetime64("2025-01-01T00:00:00.000"), f"{NEW_YEAR}"),
    (np.datetime64("1970-01-02T00:00:00.000000000999", "ps"), "86400000000000"),
    (date(2025, 1, 1), f"{NEW_YEAR}"),
    (datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC), "-1000000000"),
    (timedelta(seconds=1), "1000000000"),
    (pd.Timedelta("1s"), "1000000000"),
    (np.timedelta64(1, "s"), "1000000000"),
    (time(0, 1), "60000000000"),
    (time(1, 1, tzinfo=BERLIN), "60000000000"),
    (pa.scalar("600000"), "600000"),
    (pa.scalar(None, pa.int64()), ""),
]


@pytest.mark.parametrize(("key", "text"), TEXTS, ids=lambda value: f"{type(value).__name__}-{value!r}"[:60])
def test_partition_of_a_key_is_the_hash_of_its_pinned_text(key: Any, text: str) -> None:
    hashed = int.from_bytes(blake2b(text.encode(), digest_size=8).digest())
    assert [partition_for(key, count) for count in (1, 2, 8, 256, MOST)] == [
        hashed % count for count in (1, 2, 8, 256, MOST)
    ]


@pytest.mark.parametrize(
    ("key", "of_8", "of_1009"), [("600000", 0, 217), ("", 4, 926), ("贵州茅台", 7, 209), (-1, 6, 1006), (0.1, 1, 399)]
)
def test_partition_of_a_key_never_changes(key: Any, of_8: int, of_1009: int) -> None:
    assert (partition_for(key, 8), partition_for(key, 1009)) == (of_8, of_1009)


@pytest.mark.parametrize(
    "key",
    [
        [1],
        {"a": 1},
        (1, 2),
        object(),
        1j,
        np.timedelta64(1, "M"),
        np.longdouble(1),
        np.zeros(2),
        10**5000,
        pa.scalar([1]),
    ],
    ids=lambda key: type(key).__name__,
)
def test_key_of_another_kind_is_refused_with_what_to_do(key: Any) -> None:
    with pytest.raises(EncodeError, match=r"expected a key .*; nothing was pushed; choose another field as the key"):
        partition_for(key, 8)


numbers = (
    st.integers(-(2**70), 2**70)
    | st.floats()
    | st.decimals(places=3, min_value=-(10**9), max_value=10**9)
    | st.booleans()
)
moments = st.datetimes(timezones=st.sampled_from([UTC, BERLIN]))


@given(
    st.lists(
        numbers | moments | st.dates() | st.timedeltas() | st.text(max_size=3) | st.binary(max_size=3) | st.none(),
        max_size=8,
    )
)
def test_equal_keys_are_in_one_partition(keys: list[Any]) -> None:
    for one in keys:
        assert 0 <= partition_for(one, 7) < 7
        for other in [*keys, *_twins(one)]:
            if one == other:
                assert partition_for(one, MOST) == partition_for(other, MOST), (one, other)


def _twins(key: Any) -> list[Any]:
    """Return the key as other scalars that can hold it."""
    if isinstance(key, float) and math.isfinite(key):
        narrow = [np.float32(key)] if abs(key) < 2**24 and float(np.float32(key)) == key else []
        return [np.float64(key), Decimal(key), *narrow, *([int(key)] if key.is_integer() else [])]
    if isinstance(key, int):
        return [Decimal(key), *([float(key), np.int64(key)] if abs(key) < 2**63 else [])]
    if isinstance(key, datetime):
        return [pd.Timestamp(key), key.astimezone(BERLIN)]
    return [np.timedelta64(key)] if isinstance(key, timedelta) else []


@pytest.mark.parametrize(
    "values",
    [
        ["a", "b", None],
        [1, 2, 3],
        [1.5, 2.0, None],
        [True, False, True],
        [date(2025, 1, 1), None, date(1900, 1, 1)],
        [datetime(2025, 1, 1, 1, 2, 3, 4567), None],
        [datetime(2025, 1, 1, tzinfo=UTC), None],
        [timedelta(microseconds=5), None],
        [Decimal("1.10"), Decimal(2)],
    ],
    ids=lambda values: type(values[0]).__name__,
)
def test_keys_hash_equally_in_pandas_polars_arrow_and_python(values: list[Any]) -> None:
    expected = [partition_for(value, MOST) for value in values]
    for column in (
        pd.Series(values),
        pd.Series(values, dtype=object),
        pd.Series(pd.array(pa.array(values), dtype=pd.ArrowDtype(pa.array(values).type))),
        pl.Series(values),
        pa.array(values),
    ):
        assert [partition_for(value, MOST) for value in column] == expected, column


def test_keys_spread_evenly_over_partitions() -> None:
    counts = np.bincount([partition_for(f"{code:06}", 8) for code in range(5_000)], minlength=8)
    assert counts.min() / 625 > 0.85
    assert counts.max() / 625 < 1.15


@given(topic_names, st.integers(0, 255))
def test_partition_is_mapped_back_to_its_topic_and_is_reserved(topic: str, n: int) -> None:
    stream = partition_topic(topic, n)
    assert partition_of(stream) == (topic, n)
    assert partition_of(f"{stream}:dead:group") is None
    assert partition_of(topic) is None
    check_topic(stream, derived=True)
    with pytest.raises(SettingsError, match="reserved for partition"):
        check_topic(stream)


def test_partitioning_is_stored_once_and_read_back(client: redis.Redis) -> None:
    assert declared(client, "bars") is None
    declare(client, "bars", Partitioning(4, "code"))
    declare(client, "bars", Partitioning(4, "code"))
    assert declared(client, "bars") == Partitioning(4, "code", "blake2b")
    assert client.pttl("sluice:partitions:bars") == -1


@pytest.mark.parametrize("other", [Partitioning(8, "code"), Partitioning(4, "name")], ids=str)
def test_another_partitioning_is_refused_with_what_to_do(client: redis.Redis, other: Partitioning) -> None:
    declare(client, "bars", Partitioning(4, "code"))
    with pytest.raises(SettingsError, match=r"4 by key 'code' \(blake2b\), got .* push to a topic of another name"):
        declare(client, "bars", other)
    assert declared(client, "bars") == Partitioning(4, "code")


def test_topic_with_entries_in_no_partition_is_not_partitioned(client: redis.Redis) -> None:
    Reservoir(client).push("bars", {"code": "600000"})
    with pytest.raises(SettingsError, match="got one with entries that are in no partition; .* outlet with `into`"):
        declare(client, "bars", Partitioning(4, "code"))
    assert declared(client, "bars") is None


@pytest.mark.odd_keys
def test_key_of_another_type_is_named(client: redis.Redis) -> None:
    client.set("sluice:partitions:bars", "?")
    for look in (lambda: declare(client, "bars", Partitioning(4, "code")), lambda: declared(client, "bars")):
        with pytest.raises(UnreadableTopicError, match="'sluice:partitions:bars' to be a hash, got a string"):
            look()


@pytest.mark.parametrize("count", [0, -1, 257, 1.0, True, "4", None], ids=repr)
def test_number_of_partitions_is_checked(count: Any) -> None:
    with pytest.raises(SettingsError, match="partitions: expected a whole number from 1 to 256"):
        Partitioning(count, "code")


@pytest.mark.parametrize("key", ["", None, 1], ids=repr)
def test_key_is_checked(key: Any) -> None:
    with pytest.raises(SettingsError, match="key: expected the name of a field"):
        Partitioning(4, key)


def test_unknown_hash_is_refused() -> None:
    with pytest.raises(SettingsError, match="hash: expected 'blake2b', got 'md5'"):
        Partitioning(4, "code", "md5")


def test_removal_deletes_all_partitions_and_the_partitioning(client: redis.Redis) -> None:
    declare(client, "bars", Partitioning(2, "code"))
    declare(client, "bars:other", Partitioning(2, "code"))
    for n in range(2):
        client.xadd(partition_topic("bars", n), {"code": "1"})
        client.xadd(f"{partition_topic('bars', n)}:dead:group", {"code": "1"})
        client.xgroup_create(partition_topic("bars", n), "group")
    drop_topic(client, "bars")
    assert client.keys() == [b"sluice:partitions:bars:other"]
