"""Every streamz node downstream of `from_redis`: its output and order, acknowledgements, and the effect of failures."""

import asyncio
import operator
from ast import literal_eval
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
from streamz import Stream

from tasks import Delivery, PipelineError
from tasks.nodes import join_asof as joins  # noqa: F401 - registers itself with streamz
from tasks.nodes import join_interval as interval_joins  # noqa: F401 - registers itself with streamz
from tasks.nodes import session_window as sessions  # noqa: F401 - registers itself with streamz
from tasks.nodes import time_window as windows_of_time  # noqa: F401 - registers itself with streamz
from tasks.nodes import to_sink as sinks_with_ids  # noqa: F401 - registers itself with streamz
from tasks.pipeline.graphs import graph
from tasks.testing import Bench
from tests.support.nodes import PUSHED, Build, feed, members
from tests.support.streams import dead, drain, here, pending, push_all


@dataclass(frozen=True)
class Case:
    """A node that gets 0 to 6: the elements it emits, and those it still holds at rest.

    any_of          for nodes that group or drop by time: a property of the outputs that is checked instead
    shows_entries   whether the numbers in an output are those of its entries
    is_sink         whether the elements are what a sink has written; the node then fails if writing one of them fails
    """

    build: Build
    emitted: list[Any] | None = None
    held: list[int] = field(default_factory=list)
    any_of: Callable[[list[Any]], bool] | None = None
    shows_entries: bool = True
    is_sink: bool = False


async def halved(n: int) -> float:
    # Later elements are done first.
    await asyncio.sleep(0.002 * (7 - n))
    return n / 2


async def slowly(n: int) -> int:
    await asyncio.sleep(0.001)
    return n


async def is_odd(n: int) -> bool:
    return await slowly(n) % 2 == 1


async def twice(n: int) -> AsyncIterator[int]:
    yield n
    await asyncio.sleep(0.001)
    yield n


def even_and_odd(source: Stream) -> tuple[Stream, Stream]:
    return source.filter(lambda n: n % 2 == 0), source.filter(lambda n: n % 2 == 1)


def collected(source: Stream) -> Stream:
    collector = source.collect()
    source.filter(lambda n: n == 5).sink(collector.flush)
    return collector


def written(source: Stream) -> Stream:
    """Return what `to_sink` writes to a sink that takes each id once, and knows after a crash what it has taken."""
    table, taken = Stream(asynchronous=True), TAKEN[-1]

    async def write(batch: Sequence[Delivery]) -> None:
        for one in batch:
            if one.id not in taken:
                await table.emit(one.value)
                taken.add(one.id)

    source.to_sink(write, batch=3, timeout="10ms")
    return table


TAKEN: list[set[str]] = []
"""The ids that the sink of each test has taken."""


@pytest.fixture(autouse=True)
def empty_sink() -> None:
    TAKEN.append(set())


def all_in_order(emitted: list[Any]) -> bool:
    return list(members(emitted)) == PUSHED


CASES: dict[str, Case] = {
    "Stream": Case(lambda s: s.map(lambda n: n), PUSHED),
    "map": Case(lambda s: s.map(lambda n, by: n * by, by=10), [10 * n for n in PUSHED], shows_entries=False),
    "map of an async function": Case(lambda s: s.map(halved), [n / 2 for n in PUSHED], shows_entries=False),
    "starmap of an async function": Case(lambda s: s.map(lambda n: (n,)).starmap(slowly), PUSHED),
    "filter by an async function": Case(lambda s: s.filter(slowly), PUSHED[1:]),
    "remove by an async function": Case(lambda s: s.remove(is_odd), [0, 2, 4, 6]),
    "flatten of an async generator": Case(lambda s: s.map(twice).flatten(), [n for n in PUSHED for _ in range(2)]),
    "starmap": Case(
        lambda s: s.map(lambda n: (n, 1)).starmap(lambda a, b: a + b), [n + 1 for n in PUSHED], shows_entries=False
    ),
    "filter": Case(lambda s: s.filter(lambda n: n % 2), [1, 3, 5]),
    "remove": Case(lambda s: s.remove(lambda n: n % 2), [0, 2, 4, 6]),
    "pluck": Case(lambda s: s.map(lambda n: (n, -n)).pluck(1), [-n for n in PUSHED], shows_entries=False),
    "accumulate": Case(lambda s: s.accumulate(lambda a, b: a + b), [0, 1, 3, 6, 10, 15, 21], shows_entries=False),
    "accumulate with state": Case(
        lambda s: s.accumulate(lambda a, b: (a + b, -a), start=100, returns_state=True),
        [-100, -100, -101, -103, -106, -110, -115],
        shows_entries=False,
    ),
    "frequencies": Case(
        lambda s: s.map(lambda n: n > 2).frequencies().map(lambda counts: sum(counts.values())),
        [1, 2, 3, 4, 5, 6, 7],
        shows_entries=False,
    ),
    "keyed_state": Case(
        lambda s: s.keyed_state(lambda total, n: total + n, key=lambda n: n % 2, start=0),
        [(0, 0), (1, 1), (0, 2), (1, 4), (0, 6), (1, 9), (0, 12)],
        shows_entries=False,
    ),
    "sliding_window by key": Case(
        lambda s: s.sliding_window(2, return_partial=False, key=lambda n: n % 2),
        [(0, 2), (1, 3), (2, 4), (3, 5), (4, 6)],
    ),
    "time_window": Case(
        lambda s: s.time_window("2s", by=lambda n: 1000 * n, close_after=None).map(
            lambda window: tuple(window.elements)
        ),
        [(0, 1), (2, 3), (4, 5)],
    ),
    "session_window": Case(
        lambda s: s.session_window("1s", by=lambda n: 1000 * n + 900 * (n % 2 == 0), close_after=None).map(
            lambda window: tuple(window.elements)
        ),
        [(0, 1), (2, 3), (4, 5)],
    ),
    "join_asof": Case(
        lambda s: s.filter(lambda n: n % 2 == 0).join_asof(
            s.filter(lambda n: n % 2).map(lambda n: (n,)),
            by=lambda x: 1000 * (x if isinstance(x, int) else x[0]),
            close_after=None,
        ),
        [(0, None), (2, (1,)), (4, (3,))],
        shows_entries=False,
    ),
    "join_interval": Case(
        lambda s: s.filter(lambda n: n % 2 == 0).join_interval(
            s.filter(lambda n: n % 2).map(lambda n: (n,)),
            by=lambda x: 1000 * (x if isinstance(x, int) else x[0]),
            before="3s",
            after="1s",
            close_after=None,
        ),
        [(0, (1,)), (2, (1,)), (2, (3,)), (4, (1,)), (4, (3,)), (4, (5,))],
        shows_entries=False,
    ),
    "slice": Case(lambda s: s.slice(1, 6, 2), [1, 3, 5]),
    "partition": Case(lambda s: s.partition(3), [(0, 1, 2), (3, 4, 5)], [6]),
    "partition by key": Case(lambda s: s.partition(2, key=lambda n: n % 2), [(0, 2), (1, 3), (4, 6)], [5]),
    "partition with timeout": Case(lambda s: s.partition(3, timeout=0.02), any_of=all_in_order),
    "partition_unique": Case(lambda s: s.partition_unique(3, key=lambda n: n % 4), [(0, 1, 2), (3, 4, 5)], [6]),
    "partition_unique keeping the last": Case(
        lambda s: s.partition_unique(3, key=lambda n: n // 2, keep="last"), [(1, 3, 4)], [5, 6]
    ),
    "sliding_window": Case(
        lambda s: s.sliding_window(3, return_partial=False), [(n, n + 1, n + 2) for n in range(5)], [5, 6]
    ),
    "sliding_window with partial ones": Case(
        lambda s: s.sliding_window(3), [(0,), (0, 1), *((n, n + 1, n + 2) for n in range(5))], [5, 6]
    ),
    "timed_window": Case(lambda s: s.timed_window(0.01), any_of=all_in_order),
    "timed_window_unique": Case(lambda s: s.timed_window_unique(0.01, key=lambda n: n % 7), any_of=all_in_order),
    "delay": Case(lambda s: s.delay(0.001), PUSHED),
    "rate_limit": Case(lambda s: s.rate_limit(0.001), PUSHED),
    "buffer": Case(lambda s: s.buffer(2), PUSHED),
    "buffer before rate_limit": Case(lambda s: s.buffer(3).rate_limit(0.001), PUSHED),
    "zip": Case(lambda s: Stream.zip(*even_and_odd(s)), [(0, 1), (2, 3), (4, 5)], [6]),
    "zip with a literal": Case(lambda s: s.zip("x"), [(n, "x") for n in PUSHED]),
    "combine_latest": Case(
        lambda s: Stream.combine_latest(*even_and_odd(s)), [(0, 1), (2, 1), (2, 3), (4, 3), (4, 5), (6, 5)], [5, 6]
    ),
    "zip_latest": Case(lambda s: Stream.zip_latest(*even_and_odd(s)), [(0, 1), (2, 1), (4, 3), (6, 5)], [5]),
    "union": Case(lambda s: Stream.union(*even_and_odd(s)), PUSHED),
    "flatten": Case(lambda s: s.map(lambda n: [n] * (n % 3)).flatten(), [1, 2, 2, 4, 5, 5]),
    "unique": Case(lambda s: s.unique(key=lambda n: n // 2), [0, 2, 4, 6]),
    "collect": Case(collected, [(0, 1, 2, 3, 4, 5)], [6]),
    "latest": Case(lambda s: s.latest(), any_of=lambda emitted: emitted[-1:] == [6] and emitted == sorted(emitted)),
    "map_async": Case(lambda s: s.map_async(halved), [n / 2 for n in PUSHED], shows_entries=False),
    "map_async in parallel": Case(
        lambda s: s.map_async(halved, parallelism=3), [n / 2 for n in PUSHED], shows_entries=False
    ),
    "map_in_processes": Case(lambda s: s.map_in_processes(operator.index, workers=2), PUSHED),
    "to_sink": Case(written, PUSHED, is_sink=True),
}


@pytest.fixture(params=CASES, ids=lambda name: name.replace(" ", "_"))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(
    params=[name for name, case in CASES.items() if case.shows_entries], ids=lambda name: name.replace(" ", "_")
)
def telling(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def at_rest_when(client: redis.Redis, emitted: list[Any], case: Case) -> Callable[[], bool]:
    def at_rest() -> bool:
        if len(pending(client)) > len(case.held):
            return False
        return len(emitted) >= len(case.emitted) if case.any_of is None else case.any_of(emitted)

    return at_rest


def test_node_emits_as_streamz_does_and_holds_only_entries_it_may_need(client: redis.Redis, case: Case) -> None:
    emitted: list[Any] = []
    held = feed(client, lambda s: case.build(s).sink(emitted.append), until=at_rest_when(client, emitted, case))
    assert held == case.held
    assert case.any_of(emitted) if case.any_of else emitted == case.emitted
    assert dead(client) == []


def test_entries_are_acknowledged_only_after_an_async_sink_has_them(fake_redis: redis.Redis, telling: Case) -> None:
    """Each element stays in the sink until the test releases it; until then its entries are pending."""
    emitted: list[Any] = []
    too_early: list[Any] = []
    ids: list[str] = []

    async def slow(element: Any) -> None:
        await asyncio.sleep(0.005)
        still = {ids.index(id_) for id_ in pending(fake_redis)}
        if not still.issuperset(members(element)):
            too_early.append((element, still))
        emitted.append(element)

    def build(source: Stream) -> Stream:
        ids.extend(id_.decode() for id_, _ in fake_redis.xrange("topic"))
        return telling.build(source).sink(slow)

    held = feed(fake_redis, build, until=at_rest_when(fake_redis, emitted, telling))
    assert too_early == []
    assert held == telling.held


def test_entry_failing_upstream_of_a_node_is_dead_lettered_and_others_pass(client: redis.Redis, case: Case) -> None:
    def check(n: int) -> int:
        if n in {0, 3}:
            msg = "bad"
            raise ValueError(msg)
        return n

    seen: list[Any] = []
    feed(
        client,
        lambda s: case.build(s.map(check)).sink(seen.append),
        until=lambda: bool(seen) and at_most_windows(client),
    )
    assert [(letter["n"], letter["dead:node"]) for letter in dead(client)] == [(0, "map(check)"), (3, "map(check)")]
    if case.shows_entries:
        assert not {0, 3} & set(members(seen))


def at_most_windows(client: redis.Redis) -> bool:
    return len(pending(client)) <= 3


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_element_failing_downstream_dead_letters_exactly_its_entries(
    fake_redis: redis.Redis, telling: Case, asynchronous: bool
) -> None:
    seen: list[Any] = []
    failed: set[int] = set()

    def check(element: Any) -> None:
        made_of = list(members(element))
        seen.append(element)
        if 4 in made_of:
            failed.update(made_of)
            msg = "bad"
            raise ValueError(msg)

    async def check_later(element: Any) -> None:
        await asyncio.sleep(0)
        check(element)

    held = feed(
        fake_redis,
        lambda s: telling.build(s).sink(check_later if asynchronous else check),
        until=at_rest_when(fake_redis, seen, telling),
    )
    assert held == telling.held
    letters = dead(fake_redis)
    assert {letter["n"] for letter in letters} == failed - set(held)
    assert len(letters) == len(failed - set(held))
    nodes = {"to_sink"} if telling.is_sink else {"sink(check)", "sink(check_later)"}
    assert {letter["dead:node"] for letter in letters} <= nodes


def test_node_behind_a_stateful_one_is_exact_despite_a_crash(client: redis.Redis, case: Case) -> None:
    emitted: list[Any] = []

    def build(source: Stream) -> Stream | None:
        elements = case.build(source.pluck("n").slice(0))
        if not case.is_sink:
            return elements.map(repr)
        elements.sink(emitted.append)
        return None

    with Bench(build, client=client, into=None if case.is_sink else "out") as bench:
        bench.push(*({"n": n} for n in PUSHED))
        bench.crash(after=4, unacknowledged=2)
        bench.drain()
        bench.stop()
        emitted += [literal_eval(entry["out"]) for entry in bench.entries("out")]
        assert case.any_of(emitted) if case.any_of else emitted == case.emitted
        assert bench.pending == []
        assert bench.dead == []


def test_unknown_node_type_is_refused_by_name(client: redis.Redis) -> None:
    class lossy(Stream):  # noqa: N801
        pass

    async def main() -> None:
        source = here(client)
        kept = lossy(source)
        with pytest.raises(PipelineError, match="behind a 'lossy'"):
            source.open()
        assert not any(hasattr(node, "secured") for node in graph(kept))

    asyncio.run(main())


def test_one_side_of_a_zip_may_run_far_ahead_of_the_other(client: redis.Redis) -> None:
    seen: list[Any] = []
    ids = push_all(client, "topic", [*range(100), -1])

    async def main() -> None:
        source = here(client)
        n = source.pluck("n")
        kept = Stream.zip(n.filter(lambda x: x >= 0), n.filter(lambda x: x < 0)).sink(seen.append)
        source.open()
        await drain(source)
        assert pending(client) == ids[1:100]
        source.close()
        del kept

    asyncio.run(main())
    assert seen == [(0, -1)]


def test_starmap_takes_lists_as_well_as_tuples(client: redis.Redis) -> None:
    seen: list[Any] = []
    feed(client, lambda s: s.map(lambda n: [n, 1]).starmap(lambda a, b: a + b).sink(seen.append), until=lambda: True)
    assert seen == [n + 1 for n in PUSHED]


@pytest.mark.parametrize("build", [lambda s: s.rate_limit(0.001), lambda s: s.delay(0.001)])
def test_nodes_are_not_delayed_by_a_wall_clock_set_back(
    fake_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch, build: Build
) -> None:
    hours = iter(range(1_000, 0, -1))
    monkeypatch.setattr("streamz.core.time", lambda: 3600.0 * next(hours))
    seen: list[int] = []
    feed(fake_redis, lambda s: build(s).sink(seen.append), until=lambda: not pending(fake_redis))
    assert seen == PUSHED


def test_every_public_streamz_node_is_documented_and_has_a_case_here() -> None:
    import re
    from pathlib import Path

    from streamz import core, sinks

    public = {
        name
        for module in (core, sinks)
        for name, node in vars(module).items()
        if isinstance(node, type) and issubclass(node, Stream) and node.__module__ == module.__name__ and name.islower()
    }
    text = Path(__file__).parents[2].joinpath("docs", "nodes.md").read_text()
    table, rest = text.split("## Async functions")
    functions, refused = rest.split("## Refused")
    rows, decided = (
        {name for row in re.findall(r"^\| (`.*?) \|", part, re.MULTILINE) for name in re.findall(r"`(\w+)", row)}
        for part in (table, functions)
    )
    assert rows <= decided | {"remove", "scan"}
    assert public - rows == {name for name in ("to_kafka", "to_mqtt") if name in refused}
    elsewhere = {
        "scan",
        "sink",
        "sink_to_list",
        "sink_to_textfile",
        "to_websocket",
        "to_redis",
        "to_parquet",
    }
    assert rows - elsewhere <= {name.split()[0] for name in CASES}
