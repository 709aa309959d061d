"""Alarms of groups: behind by the limits or by half of what the topic keeps, new dead letters, and dropped entries."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.reservoir.alarms import Limits, alarms_of
from tasks.reservoir.history import Sample
from tasks.reservoir.keep import Keep
from tasks.reservoir.levels import GroupLevel, TopicLevel

GROUP = GroupLevel("group", consumers=1, pending=0, lag=0, dead=0)
LIMITS = Limits(entries=1_000, seconds=300)


def level(group: GroupLevel, keep: str | int | None = None) -> TopicLevel:
    return TopicLevel("topic", 5, "1-0", "2-0", (group,), keep=None if keep is None else Keep.of(keep))


def events(group: GroupLevel, keep: str | int | None = None, before: Sample | None = None) -> list[str]:
    return [alarm.event for alarm in alarms_of([level(group, keep)], before, limits=LIMITS)]


@pytest.mark.parametrize(
    ("group", "keep", "is_alarm"),
    [
        (replace(GROUP, lag=1_000, behind=300.0), None, False),
        (replace(GROUP, lag=1_001), None, True),
        (replace(GROUP, lag=1, behind=301.0), None, True),
        (replace(GROUP, lag=None, behind=301.0), None, True),
        (replace(GROUP, lag=150, behind=9.0), 300, False),
        (replace(GROUP, lag=151, behind=9.0), 300, True),
        (replace(GROUP, lag=1, behind=1.0), 1, False),
        (replace(GROUP, lag=1, behind=31.0), "1min", True),
        (replace(GROUP, lag=1, behind=30.0), "1min", False),
        (replace(GROUP, lag=5_000, is_forgotten=True), None, False),
    ],
)
def test_a_group_behind_its_limits_or_half_of_what_is_kept_raises_an_alarm(
    group: GroupLevel, keep: str | int | None, is_alarm: bool
) -> None:
    assert events(group, keep) == ["sluice.topic.lagging"] * is_alarm


@given(before=st.tuples(st.integers(0, 5), st.integers(0, 5)), now=st.tuples(st.integers(0, 5), st.integers(0, 5)))
def test_new_letters_and_newly_spilled_entries_raise_an_alarm_each(
    before: tuple[int, int], now: tuple[int, int]
) -> None:
    who = ("topic", "group")
    sample = Sample(datetime.now(UTC), {who: 0}, {who: before[0]}, {who: before[1]})
    found = events(replace(GROUP, dead=now[0], spilled=now[1]), before=sample)
    expected = ["sluice.entry.dead"] * (now[0] > before[0]) + ["sluice.reservoir.spilled"] * (now[1] > before[1])
    assert found == expected


def test_an_alarm_names_the_lag_in_time_and_in_entries_with_a_remedy() -> None:
    [alarm] = alarms_of([level(replace(GROUP, lag=1_234, behind=86.4))], None, limits=LIMITS)
    assert alarm.message == "group 'group' on topic 'topic' is behind by 86 s, 1,234 entries"
    assert "sluice status" in alarm.remedy


def test_entries_that_came_while_nothing_ran_raise_no_alarm_by_their_age() -> None:
    old = replace(GROUP, lag=3, behind=9_000.0)
    had_read_all = Sample(datetime.now(UTC), {("topic", "group"): 0}, {}, {})
    was_behind = Sample(datetime.now(UTC), {("topic", "group"): 1}, {}, {})
    for keep in (None, "1h"):
        assert events(old, keep, had_read_all) == []
        assert events(old, keep, was_behind) == ["sluice.topic.lagging"]
    assert events(replace(old, lag=1_001), None, had_read_all) == ["sluice.topic.lagging"]
