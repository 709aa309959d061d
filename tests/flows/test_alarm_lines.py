"""The lines of alarms in the log of a run."""

import logging
from dataclasses import replace

import pytest

from flows.runtime.alarm_lines import AlarmLines
from tasks.reservoir.alarms import Alarm

LAGGING = Alarm("sluice.topic.lagging", "topic", "group", "group", 5, "it is behind", "start it")
SPILLED = Alarm("sluice.reservoir.spilled", "topic", "group", "group", 5, "5 dropped", "keep more")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_alarm_is_logged_when_it_begins_and_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    lines = AlarmLines(logging.getLogger("sluice"), clock=clock)
    with caplog.at_level(logging.INFO):
        for alarms in ([], [LAGGING], [replace(LAGGING, entries=6)], [], [], [LAGGING]):
            lines.update(alarms)
            assert lines.current == alarms
            clock.now += 60
    logged = [(record.levelname, record.getMessage()) for record in caplog.records]
    begun = ("WARNING", "it is behind; start it")
    assert logged == [begun, ("INFO", "over: the alarm sluice.topic.lagging of 'group' on topic 'topic'"), begun]


def test_alarm_that_comes_and_goes_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    lines = AlarmLines(logging.getLogger("sluice"), clock=clock)
    with caplog.at_level(logging.INFO):
        for second in range(0, 300, 10):
            clock.now = second
            lines.update([LAGGING] if second % 60 < 20 else [])
        assert [record.getMessage() for record in caplog.records] == ["it is behind; start it"]
        clock.now = 310 + 60
        lines.update([])
        lines.update([])
    assert caplog.records[-1].getMessage().startswith("over: ")
    assert len(caplog.records) == 2


def test_growing_losses_are_logged_again_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    lines = AlarmLines(logging.getLogger("sluice"), clock=clock)
    for second in range(0, 150, 10):
        clock.now = second
        lines.update([replace(SPILLED, entries=second, message=f"{second} dropped")])
    clock.now = 300
    lines.update([replace(SPILLED, entries=140, message="no more dropped")])
    lines.update([replace(SPILLED, entries=140, message="no more dropped")])
    messages = [record.getMessage().partition(";")[0] for record in caplog.records]
    assert messages == ["0 dropped", "60 dropped", "120 dropped", "no more dropped"]
