"""Inlets that remember: a cursor over runs of a grid and one-shot runs, and entries that are pushed only if they changed."""

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
import redis

from deployments.servers.redis_server import RedisServer
from flows import inlet
from tasks import Cursor, PumpError, Reservoir, RetryLater, SettingsError, codec
from tasks.pump import one_shot
from tasks.reservoir.cursors import CursorStore, cursors


@pytest.fixture(autouse=True)
def reservoir(redis_server: RedisServer, real_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Reservoir:
    monkeypatch.setenv("SLUICE_REDIS_URL", redis_server.url)
    return Reservoir(real_redis)


def pushed(client: redis.Redis, topic: str = "trades") -> list[Any]:
    return [dict(entry) for entry in Reservoir(client).peek(topic, 1_000) if not isinstance(entry, Exception)]


def stored(client: redis.Redis) -> Any:
    [id_] = cursors(client)
    return codec.decode(CursorStore(client, id_).read().memory.value)


left: list[int] = []
"""A number for each further call: the call behind the last one fails, and with it the run."""


def calls(n: int) -> None:
    left[:] = range(n)


def until_it_fails(run: Callable[..., Any], **parameters: Any) -> None:
    with pytest.raises(PumpError, match="IndexError"):
        run(**parameters)


GRID: dict[str, Any] = {
    "topic": "trades",
    "every": "20ms",
    "window": "10min",
    "max_failures": 1,
    "when_failing": "fail",
}


@inlet(**GRID)
def trades(page: int = 2, since: Cursor = Cursor(10)) -> list[dict[str, int]]:  # noqa: B008 - its value is copied
    """Fetch a page of trades behind the last one.

    Args:
        page: Trades per page.
        since: The last trade.
    """
    since.value += page
    left.pop()
    return [{"n": n} for n in range(since.value - page + 1, since.value + 1)]


def test_a_cursor_is_no_field_of_the_form() -> None:
    assert "page" in trades.parameters.properties
    assert "since" not in trades.parameters.properties


def test_the_next_run_goes_on_where_the_entries_of_the_last_one_end(real_redis: redis.Redis) -> None:
    for n in (3, 4):
        calls(n)
        until_it_fails(trades.fn)
    assert pushed(real_redis) == [{"n": n} for n in range(11, 25)]
    assert stored(real_redis) == 24


def test_each_set_of_parameters_has_a_cursor_of_its_own(real_redis: redis.Redis) -> None:
    for parameters, cursors_then in (({"page": 1}, 1), ({"page": 3}, 2), ({"page": 3, "every": "30ms"}, 2)):
        calls(1)
        until_it_fails(trades.fn, **parameters)
        assert len(list(cursors(real_redis, "trades"))) == cursors_then


def test_an_async_pump_has_a_cursor(real_redis: redis.Redis) -> None:
    @inlet(**GRID)
    async def later(since: "Cursor") -> dict[str, int]:
        since.value = (since.value or 0) + 1
        left.pop()
        return {"n": since.value}

    calls(3)
    until_it_fails(later.fn)
    assert pushed(real_redis) == [{"n": 1}, {"n": 2}, {"n": 3}]


def test_a_cursor_whose_default_is_changed_in_place_starts_anew_at_each_first_call(real_redis: redis.Redis) -> None:
    @inlet(**GRID | {"max_failures": 3})
    def breaks(since: Cursor = Cursor({"seen": []})) -> None:  # noqa: B008
        since.value["seen"].append(1)
        raise OSError(len(since.value["seen"]))

    with pytest.raises(PumpError, match="OSError: 1$"):
        breaks.fn()
    assert list(cursors(real_redis)) == []
    assert breaks.pump.__defaults__[0].value == {"seen": []}


def test_only_changed_entries_are_pushed_over_runs(real_redis: redis.Redis) -> None:
    prices = iter([1, 1, 2, 2, 2, 1])

    @inlet(**GRID | {"topic": "prices"}, only_if_changed=True)
    def price() -> dict[str, int]:
        return {"n": next(prices)}

    for _ in range(2):
        with pytest.raises(PumpError, match="StopIteration"):
            price.fn()
    assert pushed(real_redis, "prices") == [{"n": 1}, {"n": 2}, {"n": 1}]


def test_entries_are_compared_by_a_named_field(real_redis: redis.Redis) -> None:
    pages = iter([("a", 1), ("a", 2), ("b", 3)])

    @inlet(**GRID | {"topic": "prices"}, only_if_changed="etag")
    def page() -> dict[str, Any]:
        etag, n = next(pages)
        return {"etag": etag, "n": n}

    with pytest.raises(PumpError, match="StopIteration"):
        page.fn()
    assert [entry["n"] for entry in pushed(real_redis, "prices")] == [1, 3]

    @inlet(**GRID | {"topic": "prices"}, only_if_changed="tag")
    def other() -> dict[str, Any]:
        return {"n": 1}

    with pytest.raises(PumpError, match="expected the field 'tag' in each entry"):
        other.fn()


def test_a_cursor_that_is_too_large_costs_the_tick_and_nothing_is_pushed(real_redis: redis.Redis) -> None:
    @inlet(**GRID)
    def greedy(since: Cursor) -> dict[str, int]:
        since.value = "x" * 70_000
        return {"n": 1}

    with pytest.raises(PumpError, match="expected a cursor of at most 65,536 bytes, got 70,002"):
        greedy.fn()
    assert real_redis.exists("trades") == 0


@pytest.mark.usefixtures("prefect")
def test_one_shot_runs_go_on_where_the_last_one_ended(real_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    for task in (one_shot.pump, one_shot.push):
        monkeypatch.setattr(task, "retry_delay_seconds", 0)
    failures = iter([True, False, True, False, False])

    @inlet(topic="trades", every=None)
    def daily(since: Cursor = Cursor(0)) -> list[dict[str, int]]:  # noqa: B008
        since.value += 1
        if next(failures):
            raise OSError
        return [{"n": since.value}]

    for _ in range(3):
        daily()
    assert pushed(real_redis) == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert stored(real_redis) == 3


@pytest.mark.usefixtures("prefect")
def test_a_one_shot_run_waits_for_its_limit_and_for_as_long_as_its_source_asks(real_redis: redis.Redis) -> None:
    asked = iter([True, True, False, False])

    @inlet(topic="trades", every=None, limit="1/100ms", limit_name="api")
    def daily() -> dict[str, int]:
        if next(asked):
            raise RetryLater(0.05)
        return {"n": 1}

    for _ in range(2):
        daily()
    assert pushed(real_redis) == [{"n": 1}, {"n": 1}]


@pytest.mark.usefixtures("prefect")
def test_a_one_shot_run_fails_if_it_would_wait_longer_than_its_window(real_redis: redis.Redis) -> None:
    @inlet(topic="trades", every=None, window="10s")
    def daily() -> dict[str, int]:
        raise RetryLater(3_600)

    with pytest.raises(RetryLater, match="in 3600 s"):
        daily()
    assert real_redis.exists("trades") == 0


def test_a_pump_gets_the_time_of_its_tick_which_no_form_shows(real_redis: redis.Redis) -> None:
    @inlet(**GRID, catch_up="1h")
    def candles(at: datetime, minutes: int = 1) -> dict[str, float]:
        left.pop()
        return {"n": at.timestamp(), "minutes": minutes}

    assert "at" not in candles.parameters.properties
    calls(3)
    until_it_fails(candles.fn)
    times = [entry["n"] for entry in pushed(real_redis)]
    assert [round(later - earlier, 2) for earlier, later in pairwise(times)] == [0.02, 0.02]
    assert [entry["n"] for entry in pushed(real_redis)] == [
        entry.time.timestamp() for entry in Reservoir(real_redis).peek("trades", 3) if not isinstance(entry, Exception)
    ]


def test_a_parameter_at_with_a_default_stays_in_the_form() -> None:
    @inlet(topic="trades")
    def candles(at: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None: ...

    assert "at" in candles.parameters.properties


@pytest.mark.usefixtures("prefect")
def test_a_one_shot_run_gets_the_time_for_which_it_was_scheduled(real_redis: redis.Redis) -> None:
    @inlet(topic="trades", every=None)
    def daily(at: datetime) -> dict[str, str]:
        return {"at": at.isoformat()}

    began = datetime.now(UTC)
    daily()
    [entry] = pushed(real_redis)
    assert began <= datetime.fromisoformat(entry["at"]) <= datetime.now(UTC)


def test_inlets_with_one_limit_must_declare_the_same() -> None:
    def one() -> None: ...

    def other() -> None: ...

    inlet(topic="trades", limit="5/s", limit_name="shared-by-two")(one)
    with pytest.raises(SettingsError, match=r"expected the same limit in all its inlets, got 6/1.0 s .* and 5/1.0 s"):
        inlet(topic="trades", limit="6/s", limit_name="shared-by-two")(other)


@pytest.mark.parametrize(
    ("function", "options", "refusal"),
    [
        (lambda a, b: None, {}, ""),
        (lambda since: None, {"threads": 2}, "expected threads=0 or 1 with a cursor"),
        (lambda: None, {"threads": 2, "only_if_changed": True}, "expected threads=0 or 1 with only_if_changed"),
        (lambda: None, {"every": None, "catch_up": "1h"}, "catch_up: expected a grid of ticks, got every=None"),
        (lambda: None, {"limit_name": "api"}, "expected a limit with limit_name='api', got none"),
        (lambda: None, {"limit": "many"}, "limit: expected up to 100,000 calls per duration"),
        (lambda: None, {"only_if_changed": ""}, "only_if_changed: expected True, False or the name of a field"),
    ],
)
def test_options_that_no_cursor_can_have_are_refused(function: Any, options: dict[str, Any], refusal: str) -> None:
    function.__name__ = "pump"
    function.__annotations__ = dict.fromkeys(("since",) if "since" in function.__code__.co_varnames else (), Cursor)
    if not refusal:
        function.__annotations__ = {"a": Cursor, "b": Cursor}
        refusal = "expected one cursor, got a, b"
    with pytest.raises(SettingsError, match=refusal):
        inlet(topic="trades", **options)(function)


def test_a_default_that_is_no_cursor_is_refused() -> None:
    def pump(since: Cursor = 5) -> None: ...  # type: ignore[assignment]

    with pytest.raises(
        SettingsError, match=r"expected the default of 'since' to be a Cursor, got 5; write Cursor\(5\)"
    ):
        inlet(topic="trades")(pump)
