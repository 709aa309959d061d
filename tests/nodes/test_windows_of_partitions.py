"""Windows and joins of partitioned topics: equal to a model and to a replay with one run, whoever owned the partitions meanwhile."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from streamz import Stream

from tasks import Entry, Reservoir
from tasks.nodes import join_asof, join_interval, session_window, time_window  # noqa: F401 - register themselves with streamz
from tasks.nodes import to_redis as results_to_redis  # noqa: F401
from tasks.reservoir.keys import dead_topic
from tasks.reservoir.partitions import partition_for, partition_topic
from tests.support.replicas import Runs, push
from tests.support.windows import START, TOPICS, Came, Options, entries_of, model, options, ticked

Fresh = Callable[[], redis.Redis]

P = 3
KEYS = "acgb"  # in the partitions 2, 0, 1 and 2
LATER = 1_000_000


@dataclass(frozen=True)
class Act:
    """What happens to the runs after an element: `what`, to the run of this number, modulo the number of runs."""

    what: str
    which: int


ACTS = ["work", "work", "work one", "work in part", "meet", "meet", "join", "stop", "kill", "suspend", "wait"]


def acts(n: int) -> st.SearchStrategy[list[list[Act]]]:
    """Return what happens after each of n elements."""
    one = st.builds(Act, st.sampled_from(ACTS), st.integers(0, 3))
    return st.lists(st.lists(one, max_size=3), min_size=n, max_size=n)


def pipeline(given: Options, into: str) -> Callable[[Stream], Any]:
    """Return a function that builds windows, sessions and joins of one source, with their results in one topic."""
    times = {name: value for name, value in given.as_given().items() if name in ("lateness", "close_after")}

    def build(source: Any) -> Any:
        left, right = (source.filter(lambda entry, side=side: entry.topic.startswith(side)) for side in TOPICS)
        kept = left.union(right)
        made = {
            "window": kept.time_window(**given.as_given(), key="key", closed_by=True).agg(
                first=("value", "first"), last=("value", "last"), sum=("value", "sum"), n=("value", "count")
            ),
            "session": kept.session_window(f"{given.size}ms", key="key", late="drop", **times).map(session),
            "asof": left.join_asof(right, key="key", late="drop", **times).map(pair),
            "near": left.join_interval(
                right, key="key", before="3ms", after="4ms", how="left", late="drop", **times
            ).map(pair),
        }
        for name, stream in made.items():
            stream.map(lambda x, name=name: {"of": name, **x}).to_redis(into, keep=None)
        return made

    return build


def session(window: Any) -> dict[str, Any]:
    return {"key": window.key, "start": window.start, "values": [entry["value"] for entry in window.elements]}


def pair(of: Any) -> dict[str, Any]:
    left, right = of
    return {"key": left["key"], "left": left["value"], "right": right and right["value"]}


def numbered(elements: list[Came]) -> list[Came]:
    """Return elements with different values."""
    return [replace(one, value=n) for n, one in enumerate(elements)]


async def lived(client: redis.Redis, elements: list[Came], given: Options, life: list[list[Act]]) -> Counter[int]:
    """Push elements one after the other, with what happens to the runs after each; return how many owners each partition had."""
    entries = entries_of(elements)
    runs = Runs(client, TOPICS, pipeline(given, "live"), group="live", partitions=P, max_entries=3)
    for n, (element, entry) in enumerate(zip(elements, entries, strict=True)):
        runs.now = START + element.at
        push(client, P, [entry])
        gap = elements[n + 1].at - element.at if n + 1 < len(elements) else 0
        for act in life[n]:
            await do(runs, act, START + element.at + gap)
    runs.now += LATER
    await runs.finish()
    return Counter(n for n, _ in runs.owners)


async def do(runs: Runs, act: Act, until: int) -> None:
    if act.what == "join":
        if len(runs) < 3:
            runs.join()
            await runs.meet(-1)
    elif act.what == "wait":
        runs.now += (until - runs.now) // 2
    elif len(runs):
        match act.what:
            case "work":
                await runs.work()
            case "work one":
                await runs.work(act.which)
            case "work in part":
                await runs.work_in_part(act.which)
            case "meet":
                await runs.meet()
            case "stop":
                await runs.stop(act.which)
            case "kill":
                runs.kill(act.which)
            case _:
                runs.suspend(act.which)


async def replayed(client: redis.Redis, elements: list[Came], given: Options) -> None:
    """Have one run read everything."""
    runs = Runs(client, TOPICS, pipeline(given, "replay"), group="replay", partitions=P)
    runs.now = START + elements[-1].at + LATER
    await runs.finish()


def results(client: redis.Redis, topic: str) -> dict[tuple[str, str], list[str]]:
    """Return the results of each kind and key, in order, with their event times."""
    found: dict[tuple[str, str], list[str]] = {}
    for entry in Reservoir(client).peek(topic, 100_000):
        assert isinstance(entry, Entry)
        found.setdefault((entry["of"], entry["key"]), []).append(f"{dict(entry)} at {entry.time_ms}")
    return found


def late(client: redis.Redis, group: str) -> list[tuple[str, str]]:
    """Return the stream and the id of each entry that became a dead letter."""
    streams = [partition_topic(topic, n) for topic in TOPICS for n in range(P)]
    return [
        (stream, raw[b"dead:id"].decode())
        for stream in streams
        for _, raw in client.xrange(dead_topic(stream, group))  # type: ignore[union-attr] - redis-py's types of replies
    ]


@pytest.mark.timeout(600)
@given(data=st.data(), given_=options, elements=ticked(KEYS), late_=st.sampled_from(["drop", "dead_letter", "update"]))
def test_windows_and_joins_are_those_of_a_replay_whoever_owns_their_partition(
    fresh_client: Fresh, data: st.DataObject, given_: Options, elements: list[Came], late_: str
) -> None:
    client, elements = fresh_client(), numbered(elements)
    options_ = replace(given_, late=late_, close_after=given_.close_after or 25)
    asyncio.run(lived(client, elements, options_, data.draw(acts(len(elements)))))
    asyncio.run(replayed(client, elements, options_))
    assert results(client, "live") == results(client, "replay")
    assert sorted(late(client, "live")) == sorted(late(client, "replay"))
    windows, too_late = {}, []
    for n in {partition_for(one.key, P) for one in elements}:
        found, missed = model([one for one in elements if partition_for(one.key, P) == n], options_)
        windows |= found
        too_late += missed
    expected = {
        (key, start): (min(members, key=time_of).value, sum(one.value or 0 for one in members))
        for (start, key), members in windows.items()
    }
    assert {
        (entry["key"], round(1000 * entry["start"].timestamp()) - START): (entry["first"], entry["sum"])
        for entry in Reservoir(client).peek("live", 100_000)
        if isinstance(entry, Entry) and entry["of"] == "window"
    } == expected  # of updates, the last
    if late_ == "dead_letter":
        assert len(late(client, "live")) == len(too_late)


def time_of(one: Came) -> int:
    return one.time


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_open_window_moves_with_its_partition_at_every_step_of_its_elements(client: redis.Redis, end: str) -> None:
    """Each key has one window of six elements, after each of which another run takes over."""
    elements = numbered([Came(10 * n, "left", 10 * n, key, None) for n in range(6) for key in "acg"])
    given = Options(size=1000, every=1000, lateness=0, close_after=25)
    takes_over = [Act("work", 0), Act(end, 0), Act("join", 0), Act("meet", 0), Act("meet", 0), Act("work", 0)]
    life = [[Act("join", 0), *takes_over] if n % 3 == 2 else [] for n in range(len(elements))]
    owners = asyncio.run(lived(client, elements, given, life))
    assert min(owners[n] for n in range(P)) >= 4
    asyncio.run(replayed(client, elements, given))
    found = results(client, "live")
    assert found == results(client, "replay")
    assert [len(found["window", key]) for key in "acg"] == [1, 1, 1]
    assert ["'n': 6" in found["window", key][0] for key in "acg"] == [True] * 3
