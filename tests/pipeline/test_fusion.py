"""Fusion has no visible effect: outputs, order, acknowledgements, dead letters, meters and last values stay the same."""

import asyncio
import itertools
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from streamz import Stream

from tasks import Entry
from tasks.nodes import emitter
from tasks.pipeline import fused_code
from tasks.state.inspection import exported
from tests.support.streams import dead, drain, here, pending, push_all

Fresh = Callable[[], redis.Redis]
Step = tuple[str, int]

STEPS = ["map", "map_more", "starmap", "filter", "pluck", "window", "buffer", "branch", "join", "meet", "later"]
STEPS += ["await", "await_some", "filter_later"]
# Nodes that remember, of which all but windows of elements are done with an element when they return.
REMEMBERING = [
    "accumulate",
    "keyed",
    "expiring",
    "unique",
    "slice",
    "keyed_window",
    "bars",
    "late_bars",
    "windows",
    "sessions",
]
STEPS += [*REMEMBERING, "into"]
steps = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 4)), max_size=7)


def number(element: Any) -> int:
    """Return the first number in an element."""
    while isinstance(element, tuple | list):
        element = element[0]
    return element["n"] if isinstance(element, dict) else element


def build(source: Stream, plan: list[Step], seen: list[Any], fails_at: int | None) -> list[Stream]:
    """Build a pipeline that records every call in `seen`; each function raises on numbers that its step and `fails_at` set."""

    def noted(name: str, bad: int, result: Callable[[Any], Any]) -> Callable[..., Any]:
        def call(*element: Any, **_: Any) -> Any:
            has_state = name.startswith(("accumulate", "keyed", "expiring")) and len(element) > 1
            x = element[int(has_state)]
            seen.append((name, repr(x) if isinstance(x, Entry) else x))
            if fails_at is not None and number(x) % 7 == bad + fails_at:
                msg = f"{name} cannot take {number(x)}"
                raise ValueError(msg)
            return result(x)

        call.__name__ = name
        return call

    kept: list[Stream] = []
    stream: Stream = source.map(noted("first", 0, number))
    for i, (kind, bad) in enumerate(plan):
        name = f"{kind}{i}"
        if kind in REMEMBERING:
            stream = remembering(stream, kind, bad, name, noted)
        elif kind == "map":
            stream = stream.map(noted(name, bad, lambda x: x))
        elif kind == "map_more":
            stream = stream.map(noted(name, bad, lambda x: (x, 1)), 1, by=2)
        elif kind == "starmap":
            stream = stream.map(lambda x: [x, 1]).starmap(noted(name, bad, lambda x: x))
        elif kind == "await":
            stream = stream.map(noted(name, bad, same))
        elif kind == "await_some":
            stream = stream.map(noted(name, bad, lambda x, bad=bad: same(x) if number(x) % 3 == bad % 3 else x))
        elif kind == "filter_later":
            stream = stream.filter(noted(name, bad, lambda x: same(number(x) % 5 != 3)))
        elif kind == "filter":
            stream = stream.filter(noted(name, bad, lambda x: number(x) % 5 != 3))
        elif kind == "pluck":  # fails on elements without such an item
            stream = stream.map(lambda x, bad=bad: (x,) if number(x) % 7 == bad else (x, x)).pluck(
                1 if bad else [0, -1]
            )
        elif kind == "into":
            kept.append(stream.map(noted(f"side{i}", bad, number)).to_redis("results", stream_name=name))
        elif kind == "window":
            stream = stream.sliding_window(2, return_partial=False)
        elif kind == "buffer":
            stream = stream.buffer(2)
        elif kind == "branch":
            kept.append(stream.map(noted(f"side{i}", bad, lambda x: x)).sink(noted(f"end{i}", bad, lambda _: None)))
        elif kind == "join":
            stream = stream.map(noted(f"left{i}", bad, lambda x: x)).union(stream.filter(noted(f"right{i}", bad, bool)))
        elif kind == "meet":
            others = stream.filter(noted(f"right{i}", bad, bool))
            stream = stream.map(noted(f"left{i}", bad, lambda x: x)).map(noted(name, bad, lambda x: x))
            others.connect(stream)
        elif kind == "later":
            below: list[Stream] = []
            stream = stream.map(grafting(f"grafted{i}", below, seen, at=bad)).map(noted(name, bad, lambda x: x))
            below.append(stream)
    kept += [stream.sink(noted("last", 1, lambda x: later(x) if number(x) % 2 else x))]
    return [stream, *kept]


def remembering(stream: Any, kind: str, bad: int, name: str, noted: Callable[..., Any]) -> Any:  # noqa: PLR0911 - one case a step
    """Append a node that remembers."""
    if kind == "accumulate":
        return stream.accumulate(noted(name, bad, lambda x: x), start=0, stream_name=name)
    if kind == "keyed":
        add = noted(name, bad, lambda x: (x, x))
        return stream.keyed_state(add, key=lambda x: number(x) % 3, start=0, returns_state=True, stream_name=name)
    if kind == "expiring":
        add = noted(name, bad, lambda x: x)
        return stream.keyed_state(add, key=lambda x: number(x) % 3, start=0, expire=0.002, stream_name=name)
    if kind == "unique":
        key = noted(name, bad, lambda x: number(x) % 5)
        return stream.unique(maxsize=2 if bad else None, key=key, hashable=bad != 1, stream_name=name)
    if kind == "slice":
        return stream.slice(bad % 2, 9 if bad else None, 1 + bad % 3, stream_name=name)
    if kind == "keyed_window":
        return stream.sliding_window(2, key=noted(name, bad, lambda x: number(x) % 2), stream_name=name)
    if kind == "windows":
        windows = stream.time_window("2ms", key=noted(name, bad, lambda x: number(x) % 2), stream_name=name)
        return windows.map(lambda window: window.elements)
    numbers, key = stream.map(lambda x: {"n": number(x)}), noted(name, bad, lambda x: x["n"] % 2)
    if kind == "sessions":
        return numbers.session_window("1ms", key=key, stream_name=name).agg(n=("n", "max"))
    if kind == "bars":
        return numbers.time_window("2ms", "1ms", key=key, stream_name=name).agg(n=("n", "last"))
    late: Any = {"by": lambda x: number(x) % 4, "late": "drop"}
    return numbers.time_window("2ms", key=key, stream_name=name, **late).agg(n=("n", "last"))


def grafting(name: str, below: list[Stream], seen: list[Any], at: int) -> Callable[[Any], Any]:
    """Return a function that connects a node further down, or removes it again, while an element passes here."""
    grafted: list[Stream] = []

    def graft(x: Any) -> Any:
        if number(x) == at and not grafted:
            grafted.append(below[0].map(lambda x: seen.append((name, x))))
        elif number(x) == at + 2 and grafted:
            grafted.pop().destroy()
        return x

    return graft


async def same(x: Any) -> Any:
    await asyncio.sleep(0)
    return x


async def later(x: Any) -> None:
    await asyncio.sleep(0)
    if number(x) % 5 == 4:
        msg = "too late"
        raise RuntimeError(msg)


def by_buffers(seen: list[Any], plan: list[Step]) -> list[list[Any]]:
    """Group calls by the buffers before them, because nodes on two sides of a buffer run concurrently."""
    buffers = [i for i, (kind, _) in enumerate(plan) if kind == "buffer"]

    def before(name: str) -> int:
        number = re.search(r"\d+$", name)
        return len(buffers) if name == "last" else sum(i < int(number[0]) for i in buffers) if number else 0

    return [[one for one in seen if before(one[0]) == n] for n in range(len(buffers) + 1)]


def state(client: redis.Redis) -> dict[str, list[str]]:
    """Return what is stored of each node, except streamz' windows, whose fields are numbered by cuts."""
    stored = exported(client, "group")
    return {node: sorted(map(repr, of.items())) for node, of in stored.items() if not node.startswith("sliding_window")}


def outcome(client: redis.Redis, plan: list[Step], count: int, fails_at: int | None, *, fuse: bool) -> dict[str, Any]:
    """Return all visible effects of a run."""
    seen: list[Any] = []
    ids = [f"{n + 1}-0" for n in range(count)]
    for n, id_ in enumerate(ids):
        client.xadd("topic", {"n": n}, id=id_)

    async def main() -> dict[str, Any]:
        source = here(client, fuse=fuse, max_entries=3)
        kept = build(source, plan, seen, fails_at)
        run = source.open()
        await drain(source, until=lambda: not run.secured.waiting and not run.is_busy)
        await source.step()  # acknowledges entries finished since the last step
        meters = [(meter.name, meter.received, meter.failed, *meter.came.values()) for meter in run.secured.meters]
        letters = [{name: letter.get(name) for name in ("n", "dead:node", "dead:exception")} for letter in dead(client)]
        if any(kind == "buffer" for kind, _ in plan):  # nodes on its two sides run concurrently
            letters.sort(key=lambda letter: str(letter["n"]))
        found = {
            "seen": by_buffers(seen, plan),
            "meters": meters,
            "pending": [ids.index(id_) for id_ in pending(client)],
            "dead": letters,
            "state": state(client),
            "results": [fields for _, fields in client.xrange("results") or ()],
            "values": [repr(meter.node.current_value) for meter in run.secured.meters[1:]],
            "names": [str(node) for node in kept],
        }
        source.close()
        return found

    return asyncio.run(main())


@given(plan=steps, count=st.integers(0, 12), fails_at=st.none() | st.integers(0, 2))
def test_fused_and_plain_nodes_have_the_same_effects(
    fresh_client: Fresh, plan: list[Step], count: int, fails_at: int | None
) -> None:
    plain = outcome(fresh_client(), plan, count, fails_at, fuse=False)
    fused = outcome(fresh_client(), plan, count, fails_at, fuse=True)
    for what in plain:
        assert fused[what] == plain[what], what


def test_chain_from_source_to_sink_is_one_call(fake_redis: redis.Redis) -> None:
    async def main() -> None:
        source = here(fake_redis)
        chain = source.map(dict).filter(bool).pluck("n").map(str)
        kept = chain.sink(print)
        source.open()
        head = next(iter(source.downstreams))
        assert head.update.__module__ == "tasks.pipeline.fusion"
        assert chain.update.__module__ != "tasks.pipeline.fusion"
        kept.destroy()
        assert head.update.__module__ != "tasks.pipeline.fusion"

    asyncio.run(main())


@pytest.mark.parametrize("period", [1, 2, 7, 8, 100])
def test_meters_estimate_quick_nodes_and_measure_slow_nodes(
    real_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch, period: int
) -> None:
    """Once per period the second node takes ten times as long, on a clock that only the nodes advance."""
    clock = [0.0]
    monkeypatch.setattr(fused_code, "perf_counter", lambda: clock[0])

    def taking(us: float) -> Callable[[Any], Any]:
        def call(entry: Any) -> Any:
            clock[0] += 1e-6 * us * (10 if us == 2 and entry["n"] % period == 0 else 1)
            return entry

        return call

    async def main(us: float) -> dict[str, float]:
        source = here(real_redis, group=f"{us}", max_entries=100)
        kept = source.map(taking(us)).map(taking(2)).sink(taking(4))
        run = source.open()
        began = clock[0]
        await drain(source)
        source.close()
        found = {meter.name: meter.seconds for meter in run.secured.meters[1:]}
        assert sum(found.values()) == pytest.approx(clock[0] - began, rel=0.1 if us == 1 else 1e-9), kept
        return found

    push_all(real_redis, "topic", range(3_000))
    quick, slow = asyncio.run(main(1)), asyncio.run(main(1000))
    assert list(quick.values()) == pytest.approx([3e-3, 6e-3 * (1 + 9 / period), 12e-3], rel=0.1)
    assert list(slow.values()) == pytest.approx([3, 6e-3 * (1 + 9 / period), 12e-3], rel=1e-3)


@pytest.mark.parametrize("us", [10, 100])
def test_pipeline_that_never_waits_yields_the_loop_to_other_tasks(
    fake_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch, us: int
) -> None:
    """Its turn lasts at most the permitted time plus a few elements, on a clock that only the node advances."""
    clock = [0.0]
    monkeypatch.setattr(fused_code, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(emitter, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    turns: list[float] = []

    def taking(entry: Any) -> None:
        clock[0] += 1e-6 * us

    async def main() -> None:
        source = here(fake_redis)
        kept = source.map(lambda entry: entry).sink(taking)
        run = source.open()

        async def others() -> None:
            while True:
                turns.append(clock[0])
                await asyncio.sleep(0)

        task = asyncio.create_task(others())
        entries = [Entry({}, topic="topic", id=f"{n}-0") for n in range(1, 257)]
        for _ in range(20):
            await run.emit(list(entries))
        task.cancel()
        del kept

    asyncio.run(main())
    longest = max(later - sooner for sooner, later in itertools.pairwise([*turns, clock[0]]))
    assert longest <= 0.005 + 33e-6 * us
