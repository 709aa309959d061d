"""CPU time distinguishes a busy server from a blocked one."""

import os

import pytest

from deployments.servers.busy import Busy, cpu_of_program


@pytest.mark.parametrize(("spent", "is_idle"), [(0.0, True), (0.2, True), (0.4, False), (6.0, False)])
def test_a_process_is_idle_if_it_takes_next_to_no_cpu(spent: float, is_idle: bool) -> None:
    readings = iter([(0.0, 100.0), (2.0, 100.0), (6.0, 100.0 + spent)])
    now, cpu = 0.0, 0.0

    def clock() -> float:
        nonlocal now, cpu
        now, cpu = next(readings)
        return now

    busy = Busy(lambda: cpu, clock=clock)
    assert [busy.is_idle() for _ in range(3)] == [False, False, is_idle]  # not before five seconds


def test_ended_process_is_idle() -> None:
    assert Busy(lambda: None).is_idle()


def test_the_cpu_of_a_program_is_found_by_its_arguments() -> None:
    assert cpu_of_program(("no such word",), None) is None
    mine = cpu_of_program(("no such word",), os.getpid())
    assert mine is not None
    assert mine > 0
