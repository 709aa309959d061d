"""Inlets without a grid: one pump call and one push per run, as Prefect tasks with retries, on a real Prefect server."""

import logging
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow
from prefect.states import Pending, Scheduled

from deployments.servers.redis_server import RedisServer
from flows import inlet
from tasks import EncodeError, PumpError, Reservoir, SettingsError
from tasks.pump import one_shot as oneshot
from tasks.pump.ticks import Beat
from tasks.reservoir.keep import Keep
from tasks.reservoir.retention import Retention

pytestmark = pytest.mark.usefixtures("prefect")


@pytest.fixture(autouse=True)
def no_pause_between_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    for task in (oneshot.pump, oneshot.push):
        monkeypatch.setattr(task, "retry_delay_seconds", 0)


@pytest.fixture(autouse=True)
def reservoir(redis_server: RedisServer, real_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Reservoir:
    monkeypatch.setenv("SLUICE_REDIS_URL", redis_server.url)
    return Reservoir(real_redis)


calls: list[int] = []


@pytest.fixture(autouse=True)
def count_calls() -> None:
    calls.clear()


@inlet(topic="daily", every=None)
def daily(n: int = 1, fail: int = 0) -> list[dict[str, int]]:
    """Return two entries, after `fail` failures."""
    calls.append(n)
    if len(calls) <= fail:
        msg = "no network"
        raise OSError(msg)
    return [{"n": n}, {"n": n + 1}]


@inlet(topic="daily", every=None)
async def slowly() -> dict[str, int]:
    """Return an entry, later."""
    return {"n": 7}


@inlet(topic="daily", every=None)
def wrongly(value: Any = None) -> Any:
    """Return the argument."""
    return value or object()


def test_run_pumps_once_and_pushes_the_result(reservoir: Reservoir) -> None:
    assert daily(n=3) == "2 entries pushed"
    assert [entry["n"] for entry in reservoir.peek("daily", 9)] == [3, 4]


def test_a_pump_that_fails_is_tried_again(reservoir: Reservoir) -> None:
    daily(fail=2)
    assert len(calls) == 3
    assert [entry["n"] for entry in reservoir.peek("daily", 9)] == [1, 2]


def test_an_async_pump_is_awaited(reservoir: Reservoir) -> None:
    slowly()
    assert [entry["n"] for entry in reservoir.peek("daily", 9)] == [7]


def test_every_run_has_a_tick_of_its_own(reservoir: Reservoir) -> None:
    daily()
    daily()
    assert [entry["n"] for entry in reservoir.peek("daily", 9)] == [1, 2, 1, 2]


def test_a_push_that_is_tried_again_pushes_nothing_twice(reservoir: Reservoir) -> None:
    first, again = (oneshot.push(reservoir, "daily", [{"n": 1}], tick="beat:2026-01-01T00:00:00") for _ in range(2))
    assert first == again
    assert len(reservoir.peek("daily", 9)) == 1


def test_a_run_whose_pump_returns_no_entries_fails_and_pushes_nothing(reservoir: Reservoir) -> None:
    with pytest.raises(PumpError, match="expected a mapping of fields"):
        wrongly()
    assert reservoir.topics() == []


def test_a_run_whose_entries_cannot_be_encoded_fails_and_pushes_nothing(reservoir: Reservoir) -> None:
    with pytest.raises(EncodeError, match="field 'n'"):
        oneshot.push(reservoir, "daily", [{"m": 1}, {"n": object()}], tick="beat:2026-01-01T00:00:01")
    assert reservoir.topics() == []


def report_of(key: str) -> str:
    with get_client(sync_client=True) as server:
        return str([one for one in server.read_artifacts() if one.key == key][-1].data)


def test_a_one_shot_run_leaves_a_line_and_a_report(reservoir: Reservoir, caplog: pytest.LogCaptureFixture) -> None:
    @inlet(topic="daily", every=None)
    def told() -> list[dict[str, int]]:
        """Return two entries."""
        return [{"n": 1}, {"n": 2}]

    with caplog.at_level(logging.INFO):
        told()
    assert any(re.match(r"told -> daily: 2 entries pushed in [\d.]+ s$", line) for line in caplog.messages)
    first, last = (entry.id for entry in reservoir.peek("daily", 2))
    text = report_of("inlet-told-daily")
    assert "| entries pushed | 2 |" in text
    assert f"| ids | {first} to {last} |" in text


def test_the_report_of_a_one_shot_run_that_failed_names_the_error() -> None:
    with pytest.raises(PumpError):
        wrongly()
    assert "**Failed** with PumpError; nothing was pushed." in report_of("inlet-wrongly-daily")


@inlet(topic="daily", every="100ms", window="500ms")
def briefly() -> dict[str, int]:
    """Return an entry, five times."""
    return {"n": 1}


def test_a_run_on_a_grid_leaves_one_artifact_with_its_tick_counts(reservoir: Reservoir) -> None:
    @inlet(topic="daily", every="100ms", window="500ms")
    def noted() -> dict[str, int]:
        """Return an entry, five times."""
        return {"n": 1}

    noted()
    with get_client(sync_client=True) as server:
        (artifact,) = [one for one in server.read_artifacts() if one.key == "inlet-noted-daily"]
    assert f"| pushed | {len(reservoir.peek('daily', 9))} |" in artifact.data


@pytest.mark.parametrize("value", [None, {"n": 1}])
def test_run_of_a_pump_that_returns_nothing_warns_of_a_missing_return(
    caplog: pytest.LogCaptureFixture, value: Any
) -> None:
    @inlet(topic="nones", every="100ms", window="500ms")
    def nones() -> Any:
        return value

    nones()
    [record] = [record for record in caplog.records if "nones -> nones: " in record.getMessage()]
    assert record.levelname == "INFO"  # it may be intended
    assert ("is its `return` missing?" in record.getMessage()) == (value is None)
    assert (", 0 with nothing to push, " in record.getMessage()) == (value is not None)


@pytest.mark.parametrize("is_kept", [True, False])
def test_run_that_begins_after_its_window_pumps_only_if_no_other_run_does(
    reservoir: Reservoir, *, is_kept: bool
) -> None:
    beat = Beat(reservoir, "daily", "briefly", every=0.1)
    # Held by a run slightly ahead, so that it stays held for as long as this test takes.
    assert beat.claim(beat.start(time.time() + (200 if is_kept else -3600))) == "claimed"
    with get_client(sync_client=True) as server:
        late = Scheduled(scheduled_time=datetime.now(UTC) - timedelta(hours=1))
        run = server.create_flow_run(briefly, state=late).id
        server.set_flow_run_state(run, Pending())
        outcome = run_flow(briefly, flow_run=server.read_flow_run(run))
    assert (outcome == "too late") is is_kept
    assert bool(reservoir.topics()) is not is_kept


def test_a_run_whose_limits_contradict_another_inlets_is_refused_and_pushes_nothing(
    reservoir: Reservoir,
) -> None:
    Retention(reservoir.client).declare("daily", Keep.of(5), inlet="other:1")
    with pytest.raises(SettingsError, match="topic 'daily'.*'5' from 'other:1'; make them agree"):
        daily()
    assert reservoir.topics() == []


def test_two_runs_for_one_moment_of_a_schedule_push_once_and_each_moment_has_its_own(reservoir: Reservoir) -> None:
    moments = [datetime(2026, 1, 1, hour, tzinfo=UTC) for hour in (1, 1, 2)]
    with get_client(sync_client=True) as server:
        for n, moment in enumerate(moments):
            run = server.create_flow_run(daily, parameters={"n": 1}, state=Scheduled(scheduled_time=moment))
            server.set_flow_run_state(run.id, Pending())
            calls.clear()
            run_flow(daily, flow_run=server.read_flow_run(run.id))
            assert len(calls) == 1, f"the pump of run {n}"
    assert len(reservoir.peek("daily", 9)) == 2 * 2
