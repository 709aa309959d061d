"""Which failures of which nodes are worth another attempt, and options of retries that cannot be."""

from collections import Counter
from typing import Any

import pytest

from tasks import RejectedError, SettingsError
from tasks.testing import Bench
from tests.pipeline.test_retrying import RETRY, Other, numbers


def test_rejected_element_fails_at_once() -> None:
    calls: list[int] = []

    def take(n: int) -> None:
        calls.append(n)
        msg = "never"
        raise RejectedError(msg)

    with Bench(lambda source: source.pluck("n").sink(take, retry=RETRY)) as bench:
        bench.push(*numbers(2))
        bench.drain()
        assert (calls, len(bench.dead)) == ([0, 1], 2)
        assert "dead:attempts" not in bench.entries("topic:dead:group")[0]


@pytest.mark.parametrize(
    "retry_on", [OSError, (OSError, KeyError), lambda error: "failed" in str(error)], ids=["type", "types", "function"]
)
def test_only_the_named_errors_are_worth_another_attempt(retry_on: Any) -> None:
    other, calls = Other([["fail"] * 2]), []

    def take(n: int) -> int:
        calls.append(n)
        return other.take(n) if n == 0 else {}[n]

    with Bench(lambda source: source.pluck("n").map(take, retry=RETRY, retry_on=retry_on)) as bench:
        bench.push(*numbers(2))
        bench.drain()
        expected = 3 + (4 if retry_on == (OSError, KeyError) else 1)
        assert len(calls) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"retry": "1s 5s"},
        {"retry": []},
        {"retry": "1s", "retry_on": 5},
        {"retry": "1s", "hold": 1},
        {"retry": None, "hold": True},
        {"retry": True},
    ],
)
def test_invalid_options_are_refused_at_the_start(options: dict[str, Any]) -> None:
    with (
        Bench(lambda source: source.sink(print, **options)) as bench,
        pytest.raises(SettingsError, match="^(retry|hold)"),
    ):
        bench.drain()


def test_map_async_refuses_overtaking() -> None:
    async def later(n: int) -> int:
        return n

    with (
        Bench(lambda source: source.map_async(later, retry="1s", overtake=True)) as bench,
        pytest.raises(SettingsError, match="map_async without `overtake`"),
    ):
        bench.drain()


def test_function_with_a_parameter_named_retry_gets_it() -> None:
    def tagged(n: int, retry: str) -> str:
        return f"{retry} {n}"

    with Bench(lambda source: source.pluck("n").map(tagged, retry="1s")) as bench:
        bench.push(*numbers(1))
        bench.drain()
    assert bench.results == ["1s 0"]


def test_node_without_retry_fails_at_once_in_an_outlet_that_retries() -> None:
    other = Other([["fail"]])
    with Bench(lambda source: source.pluck("n").sink(other.take, retry=None), options={"retry": RETRY}) as bench:
        bench.push(*numbers(1))
        bench.drain()
    assert other.failed[0] == len(bench.dead) == 1


def test_items_of_one_entry_are_counted_apart() -> None:
    failed: Counter[str] = Counter()

    def take(item: str) -> None:
        failed[item] += 1
        if failed[item] <= 2:
            raise OSError(item)

    with Bench(lambda source: source.map(lambda _: ["a", "b"]).flatten().sink(take, retry="1s, 5s")) as bench:
        bench.push(*numbers(1))
        bench.drain()
    assert (failed, bench.dead) == ({"a": 3, "b": 3}, [])


def test_item_waits_for_an_earlier_one_of_its_entry_that_is_tried_again() -> None:
    calls: list[str] = []

    def take(item: str) -> None:
        calls.append(item)
        if item == "a" and len(calls) <= 2:
            raise OSError(item)

    with Bench(lambda source: source.map(lambda _: ["a", "b"]).flatten().sink(take, retry="1s, 5s")) as bench:
        bench.push(*numbers(1))
        bench.drain()
    assert calls == ["a", "a", "a", "b"]
