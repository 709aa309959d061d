"""The clocks and their counter."""

import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.clock import seconds, slow_seconds, ticking
from tasks.testing import Pushed, drain, entries, pumped


def test_each_clock_pushes_a_second_in_a_field_of_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    [first], [second] = pumped(seconds.pump), pumped(slow_seconds.pump, block=2.5)
    assert (list(first), list(second)) == (["seconds"], ["slow_seconds"])
    assert first["seconds"] in range(60)
    assert second["slow_seconds"] in range(60)
    assert slept == [2.5]


def test_the_slow_clock_has_enough_threads_to_begin_every_second() -> None:
    properties = slow_seconds.parameters.properties
    assert (properties["block"]["default"], properties["threads"]["default"], properties["every"]["default"]) == (
        6.0,
        10,
        "1s",
    )


@given(
    entries(topics="market", max_size=20, **dict.fromkeys(["seconds", "slow_seconds", "quotes", "x"], st.integers(0)))
)
def test_ticking_counts_all_entries_but_quotes_by_kind_and_acknowledges_all(pushed: list[Pushed]) -> None:
    run = drain(ticking.build, pushed)
    kinds = ["+".join(sorted(entry)) for entry in pushed if "quotes" not in entry]
    assert run.results == [Counter(kinds[: n + 1]) for n in range(len(kinds))]
    assert run.acked == pushed
