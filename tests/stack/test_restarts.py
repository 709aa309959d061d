"""Restarts of children that have ended."""

from deployments.stack.restarts import Restarts


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_child_is_restarted_at_once_and_then_ever_later_up_to_a_minute() -> None:
    clock = Clock()
    restarts = Restarts(clock)
    waits = []
    for _ in range(9):
        assert restarts.is_new("server")
        waits.append(wait := restarts.ended("server"))
        assert not restarts.is_new("server")
        if wait:
            clock.now += wait - 1
            assert not restarts.take("server")
            clock.now += 1
        assert restarts.take("server")
    assert waits == [0, 2, 4, 8, 16, 32, 60, 60, 60]


def test_pauses_begin_anew_after_a_minute_without_an_end() -> None:
    clock = Clock()
    restarts = Restarts(clock)
    for _ in range(3):
        clock.now += restarts.ended("server")
        assert restarts.take("server")
    clock.now += 61
    assert restarts.ended("server") == 0


def test_each_child_has_pauses_of_its_own() -> None:
    restarts = Restarts(Clock())
    assert restarts.ended("server") == 0
    assert restarts.take("server")
    assert restarts.ended("server") == 2
    assert restarts.ended("worker") == 0
