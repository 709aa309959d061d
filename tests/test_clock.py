"""The clocks and their counter."""

import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamz import Stream

from flows.clock import seconds, slow_seconds, ticking
from tasks.entry import Entry

FIELDS = st.sets(st.sampled_from(["seconds", "slow_seconds", "quotes", "x"]), min_size=1)


def test_each_clock_pushes_a_second_in_a_field_of_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    [(first, second)] = seconds.pump().items()
    [(slow, began)] = slow_seconds.pump(block=2.5).items()
    assert (first, slow) == ("seconds", "slow_seconds")
    assert second in range(60)
    assert began in range(60)
    assert slept == [2.5]


def test_the_slow_clock_blocks_six_seconds_and_has_threads_enough_to_begin_every_second() -> None:
    properties = slow_seconds.parameters.properties
    assert (properties["block"]["default"], properties["threads"]["default"], properties["every"]["default"]) == (
        6.0,
        10,
        "1s",
    )


@given(st.lists(FIELDS, max_size=20))
def test_ticking_counts_what_is_not_quotes_by_kind(received: list[set[str]]) -> None:
    source = Stream()
    counts = ticking.build(source).sink_to_list()
    for n, fields in enumerate(received):
        source.emit(Entry(dict.fromkeys(fields, 0), topic="market", id=f"1-{n}"))
    kinds = ["+".join(sorted(fields)) for fields in received if "quotes" not in fields]
    assert counts == [Counter(kinds[: n + 1]) for n in range(len(kinds))]
