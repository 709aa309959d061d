"""Random graphs of nodes that remember, each built twice: on a source of Redis, and of plain streamz as the oracle.

An element is the name of an entry, or a tuple of elements and numbers: whatever a segment does, it can be told
which entries an element was made of. The oracle has no guard, no receipts and no Redis: where a segment raises, it drops
the element and notes its entries, and asynchronous segments are plain ones. All else is streamz' own nodes, or written here.
"""

import asyncio
import itertools
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from hypothesis import strategies as st
from streamz import Stream
from streamz import core as nodes

__all__ = ["BRANCHES", "Graph", "Shape", "Witness", "members", "shapes"]

_EXPIRE_MS = 4


def members(element: Any) -> Iterator[str]:
    """Yield the entries that an element was made of."""
    if isinstance(element, str):
        yield element
    elif isinstance(element, tuple):
        for one in element:
            yield from members(one)


def digest(element: Any) -> int:
    """Return a number that tells elements, with all their types and order, apart."""
    return zlib.crc32(repr(element).encode())


def _third(element: Any) -> int:
    return digest(element) % 3


def _fifth(element: Any) -> int:
    return digest(element) % 5


def _fifth_in_a_list(element: Any) -> list[int]:
    return [_fifth(element)]


def _is_even(element: Any) -> bool:
    return digest(element) % 2 == 0


def _is_odd(element: Any) -> bool:
    return not _is_even(element)


def _is_kept(element: Any) -> bool:
    return digest(element) % 4 != 0


def _twice(element: Any) -> list[Any]:
    return [element, (element, 2)]


async def _later(element: Any) -> Any:
    await asyncio.sleep(0.001 if _is_even(element) else 0)
    return element


async def _is_kept_later(element: Any) -> bool:
    return _is_kept(await _later(element))


@dataclass
class Witness:
    """What is known of entries by name: the mark of the segment that raises on it, its time, and whether the oracle saw it fail.

    times   in ms
    """

    bad: dict[str, str] = field(default_factory=dict)
    times: dict[str, int] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)

    def refuses(self, mark: str, element: Any) -> bool:
        """Return whether a segment raises on an element."""
        return any(self.bad.get(name) == mark for name in members(element))


class Graph:
    """One graph of a shape, on a source.

    source    emits the names of entries
    orders    what each segment has emitted whose results depend on time, in order: the oracle emits the same
    outputs   the last node of each branch
    holds     what each node that remembers holds, by its label
    ordered   the nodes that remember what such segments have emitted
    timed     nodes that emit what they hold after a while
    """

    def __init__(
        self,
        source: Stream,
        shape: "Shape",
        witness: Witness,
        *,
        is_oracle: bool,
        orders: Sequence[Sequence[Any]] = (),
    ) -> None:
        self.witness, self.is_oracle, self.is_named = witness, is_oracle, shape.is_named
        self.ordered: list[Any] = []
        self.timed: list[Any] = []
        self._orders = list(orders)
        self.holds: dict[str, Callable[[], Any]] = {}
        self.kept: list[Any] = []
        stream = self.remember(source.accumulate(_logged, start=[], returns_state=True, **self.name("log")), _state)
        for segment in shape.trunk:
            stream = SEGMENTS[segment](stream, self)
        self.outputs = [self._branch(stream, branch) for branch in shape.branches]

    def _branch(self, stream: Stream, branch: list[str]) -> Stream:
        for segment in branch:
            stream = (SEGMENTS | ENDS)[segment](stream, self)
        return stream

    @property
    def log(self) -> list[str]:
        """The entries that the source has emitted, in order, as the graph itself remembers."""
        return list(next(iter(self.holds.values()))())

    @property
    def orders(self) -> list[list[Any]]:
        """What each segment has emitted whose results depend on time."""
        return [_order(node) for node in self.ordered]

    @property
    def is_waiting(self) -> bool:
        """Whether a timed node holds anything."""
        return any(
            any(node._buffer.values() if isinstance(node._buffer, dict) else node._buffer) for node in self.timed
        )

    async def finish(self) -> None:
        """Have the oracle emit what depends on time."""
        for node in self.ordered:
            await node.finish()

    def order(self, stream: Stream, made: Callable[[Stream], Stream], check: "Check") -> Stream:
        """Return a segment whose results depend on time; the oracle repeats them, if they are possible ones."""
        if self.is_oracle:
            node: Any = Ordered(stream, self._orders.pop(0), check)
        else:
            node = made(stream).accumulate(_logged, start=[], returns_state=True, **self.name("order"))
        self.ordered.append(node)
        return self.remember(node, _order)

    def contents(self) -> dict[str, str]:
        """Return what the nodes hold, with all types, by label."""
        return {label: repr(held()) for label, held in self.holds.items()}

    def name(self, word: str) -> dict[str, str]:
        """Return the argument that names a node, if the nodes of this graph have names."""
        return {"stream_name": f"{word} {len(self.holds)}"} if self.is_named else {}

    def remember(self, node: Any, held: Callable[[Any], Any]) -> Any:
        """Note a node, and how to look at what it holds; return it."""
        self.holds[f"{len(self.holds)} {held.__name__}"] = partial(held, node)
        return node

    def check(self, mark: str, element: Any) -> bool:
        """Raise on an element with a bad entry; the oracle notes its entries and returns False."""
        if not self.witness.refuses(mark, element):
            return True
        if self.is_oracle:
            self.witness.failed.update(members(element))
            return False
        msg = f"bad at {mark}"
        raise ValueError(msg)


Check = Callable[[list[Any], list[Any]], bool]
"""Returns whether a segment that got the first elements can have emitted the second ones."""


class Ordered(Stream):
    """An oracle's segment: takes elements, and emits at the end what the graph under test has emitted."""

    def __init__(self, upstream: Stream, order: Sequence[Any], check: Check) -> None:
        super().__init__(upstream)
        self.got: list[Any] = []
        self.emitted = list(order)
        self._check = check

    def update(self, x: Any, who: Stream | None = None, metadata: Any = None) -> None:
        self.got.append(x)

    async def finish(self) -> None:
        assert self._check(self.got, self.emitted), "a possible order"
        for element in self.emitted:
            await _settle(self._emit(element))


async def _settle(result: Any) -> None:
    """Await what an `_emit` has returned: a list, nested behind `zip_latest` of streamz 0.6.6."""
    if isinstance(result, list):
        for one in result:
            await _settle(one)
    elif result is not None:
        await result


def _in_order(got: list[Any], emitted: list[Any]) -> bool:
    """Groups of elements, in order and without a gap."""
    return [element for group in emitted for element in group] == got


def _distinct(got: list[Any], emitted: list[Any]) -> bool:
    """Groups of elements, of which some were dropped."""
    return _is_part([element for group in emitted for element in group], got)


def _last(got: list[Any], emitted: list[Any]) -> bool:
    """Elements in order, of which some were dropped, but not the last."""
    return emitted[-1:] == got[-1:] and _is_part(emitted, got)


def _is_part(some: list[Any], whole: list[Any]) -> bool:
    left = iter(whole)
    return all(element in left for element in some)


def _each_side_in_order(got: list[Any], emitted: list[Any]) -> bool:
    sides = [[[x for x in elements if is_in(x)] for is_in in (_is_even, _is_odd)] for elements in (got, emitted)]
    return sides[0] == sides[1]


def _pairs(got: list[Any], emitted: list[Any]) -> bool:
    """Pairs of one even and one odd element, the later of which was just emitted."""
    even, odd = [x for x in got if _is_even(x)], [x for x in got if _is_odd(x)]
    places = [(even.index(a), odd.index(b)) for a, b in emitted]
    return places == sorted(places) and places[-1:] == ([(len(even) - 1, len(odd) - 1)] if even and odd else [])


# --- what nodes hold ---


def _order(node: Any) -> Any:
    return list(node.emitted if isinstance(node, Ordered) else node.state)


def _state(node: Any) -> Any:
    return None if node.state is nodes.no_default else node.state


def _seen(node: Any) -> Any:
    """The keys that were seen; their order matters if the oldest are forgotten."""
    return sorted(node.seen) if type(node.seen) is dict else list(getattr(node.seen, "order", node.seen))


def _window(node: Any) -> Any:
    return list(node._buffer)


def _partitions(node: Any) -> Any:
    return sorted((repr(key), elements) for key, elements in node._buffer.items() if elements)


def _unique_window(node: Any) -> Any:
    return list(node._buffer.items())


def _sides(node: Any) -> Any:
    return [[element for element, _ in node.buffers[up]] for up in node.upstreams]


def _latest(node: Any) -> Any:
    missing = [up in node.missing for up in node.upstreams]
    return missing, node.last, [element for element, _ in getattr(node, "lossless_buffer", ())]


def _cache(node: Any) -> Any:
    return list(node.cache)


def _by_key(node: Any) -> Any:
    """The states of a keyed node, without their times, or those of an oracle."""
    if isinstance(node, nodes.accumulate):
        return sorted((key, state) for key, (_, state) in node.state[1].items())
    return sorted((key, state) for key, (_, state) in node._states.items())


def _windows(node: Any) -> Any:
    if isinstance(node, nodes.accumulate):
        return sorted((key, list(window)) for key, window in node.state.items())
    return sorted((key, [element for element, _ in window]) for key, window in node._windows.items())


# --- functions with a state ---


def _logged(log: list[str], name: str) -> tuple[list[str], str]:
    log.append(name)  # in place
    return log, name


def _counted(state: tuple[Any, int, int], element: Any) -> tuple[Any, int, int]:
    return element, state[1] + 1, digest((state[2], element))


def _numbered(state: int, element: Any) -> tuple[int, Any]:
    return state + 1, (element, state)


def _in_place(state: list[int], element: Any) -> tuple[list[int], Any]:
    state.append(_fifth(element))
    del state[:-4]
    return state, (element, sum(state))


def _chained(state: Any, element: Any) -> Any:
    return element, digest(state)


def _forgetful(state: int, element: Any) -> tuple[int | None, Any]:
    return (None if state == 2 else state + 1), (element, state)


def _last_of_key(state: Any, element: Any) -> Any:
    return element, 1 + (state[1] if state else 0)


# --- segments: a part of a graph, on a stream ---


def _accumulate(s: Stream, g: Graph, func: Any = _counted, **options: Any) -> Stream:
    options = {"start": ("", 0, 0)} | options if func is _counted else options
    return g.remember(s.accumulate(func, **options, **g.name("accumulate")), _state)


def _accumulate_checked(s: Stream, g: Graph) -> Stream:
    """An accumulator that raises, and leaves its state as it was."""

    def numbered(state: int, element: Any) -> tuple[int, Any]:
        return _numbered(state, element) if g.check("accumulator", element) else (state, None)

    made = g.remember(s.accumulate(numbered, start=0, returns_state=True, **g.name("checked")), _state)
    return made.filter(lambda x: x is not None) if g.is_oracle else made


def _slice(s: Stream, g: Graph, *args: Any) -> Stream:
    return g.remember(s.slice(*args, **g.name("slice")), _state)


def _unique(s: Stream, g: Graph, **options: Any) -> Stream:
    return g.remember(s.unique(**{"key": _fifth} | options, **g.name("unique")), _seen)


def _keyed(s: Stream, g: Graph, func: Any, *, start: Any, returns_state: bool, expire_ms: int | None = None) -> Stream:
    if not g.is_oracle:
        expire = None if expire_ms is None else expire_ms / 1000
        options = {"key": _third, "start": start, "returns_state": returns_state, "expire": expire}
        return g.remember(s.keyed_state(func, **options, **g.name("keyed")), _by_key)

    def step(state: tuple[int, dict[int, Any]], element: Any) -> Any:
        now, states = state
        key = _third(element)
        if expire_ms is not None:
            now = max([now, *(g.witness.times[name] for name in members(element))])
            states = {one: held for one, held in states.items() if held[0] + expire_ms >= now}
        before = states[key][1] if key in states else start
        new = func(before, element)
        after, emitted = new if returns_state else (new, (key, new))
        states = {one: held for one, held in states.items() if one != key}
        return (now, states if after is None else states | {key: (now, after)}), emitted

    return g.remember(s.accumulate(step, start=(0, {}), returns_state=True), _by_key)


def _sliding_window(s: Stream, g: Graph, n: int, *, partial_ones: bool, by_key: bool = False) -> Stream:
    if not by_key:
        return g.remember(s.sliding_window(n, return_partial=partial_ones, **g.name("window")), _window)
    if not g.is_oracle:
        return g.remember(s.sliding_window(n, return_partial=partial_ones, key=_third, **g.name("windows")), _windows)

    def step(windows: dict[int, tuple[Any, ...]], element: Any) -> Any:
        window = (*windows.get(_third(element), ()), element)[-n:]
        return windows | {_third(element): window}, window if partial_ones or len(window) == n else None

    made = g.remember(s.accumulate(step, start={}, returns_state=True), _windows)
    return made.filter(lambda window: window is not None)


def _partition(s: Stream, g: Graph, n: int, **options: Any) -> Stream:
    return g.remember(s.partition(n, **options, **g.name("partition")), _partitions)


def _partition_unique(s: Stream, g: Graph, n: int, keep: str) -> Stream:
    return g.remember(s.partition_unique(n, key=_third, keep=keep, **g.name("partition_unique")), _unique_window)


def _halves(s: Stream) -> tuple[Stream, Stream]:
    return s.filter(_is_even), s.filter(_is_odd)


def _zip(s: Stream, g: Graph) -> Stream:
    return g.remember(Stream.zip(*_halves(s), maxsize=10_000, **g.name("zip")), _sides)


def _of_latest(s: Stream, g: Graph, join: str, **options: Any) -> Stream:
    return g.remember(getattr(Stream, join)(*_halves(s), **options, **g.name(join)), _latest)


def _collect(s: Stream, g: Graph) -> Stream:
    collector = g.remember(s.collect(**g.name("collect")), _cache)
    g.kept.append(s.filter(_is_kept).filter(_is_odd).sink(lambda _: collector.flush()))
    return collector.filter(bool)


def _union(s: Stream, _: Graph) -> Stream:
    even, odd = _halves(s)
    return even.map(lambda x: (x, 0)).union(odd)


def _check(s: Stream, g: Graph, mark: str) -> Stream:
    if g.is_oracle:
        return s.filter(partial(g.check, mark))
    return s.map(lambda element: (g.check(mark, element), element)[1])


def _async_map(s: Stream, g: Graph) -> Stream:
    return s if g.is_oracle else s.map(_later)


def _map_async(s: Stream, g: Graph) -> Stream:
    return s if g.is_oracle else s.map_async(_later, parallelism=2)


def _buffer(s: Stream, g: Graph) -> Stream:
    return s if g.is_oracle else s.buffer(2)


def _async_filter(s: Stream, g: Graph) -> Stream:
    return s.filter(_is_kept if g.is_oracle else _is_kept_later)


def _timed(s: Stream, g: Graph, made: Callable[[Stream], Stream], check: Check) -> Stream:
    def noted(stream: Stream) -> Stream:
        g.timed.append(node := made(stream))
        return node.filter(bool).map(tuple)

    return g.order(s, noted, check)


def _late_even(s: Stream) -> tuple[Stream, Stream]:
    even, odd = _halves(s)
    return even.map_async(_later, parallelism=2), odd


def _zip_behind_async(s: Stream, g: Graph) -> Stream:
    sides = _halves(s) if g.is_oracle else _late_even(s)
    return g.remember(Stream.zip(*sides, maxsize=10_000, **g.name("zip")), _sides)


Segment = Callable[[Stream, Graph], Stream]

_INTERVAL = 0.002

SEGMENTS: dict[str, Segment] = {
    "accumulate": _accumulate,
    "accumulate with another result": partial(_accumulate, func=_numbered, start=0, returns_state=True),
    "accumulate in place": lambda s, g: _accumulate(s, g, func=_in_place, start=[], returns_state=True),
    "accumulate without a start": partial(_accumulate, func=_chained),
    "accumulate with_state": partial(_accumulate, func=_numbered, start=0, returns_state=True, with_state=True),
    "accumulate that raises": _accumulate_checked,
    "slice from": lambda s, g: _slice(s, g, 2),
    "slice up to": lambda s, g: _slice(s, g, None, 4),
    "slice by step": lambda s, g: _slice(s, g, 0, None, 2),
    "unique": _unique,
    "unique of the last": partial(_unique, maxsize=2),
    "unique of what cannot be hashed": partial(_unique, maxsize=3, hashable=False, key=_fifth_in_a_list),
    "keyed_state": partial(_keyed, func=_last_of_key, start=None, returns_state=False),
    "keyed_state that forgets": partial(_keyed, func=_forgetful, start=0, returns_state=True),
    "keyed_state that expires": partial(_keyed, func=_numbered, start=0, returns_state=True, expire_ms=_EXPIRE_MS),
    "sliding_window": partial(_sliding_window, n=2, partial_ones=False),
    "sliding_window with partial ones": partial(_sliding_window, n=3, partial_ones=True),
    "sliding_window by key": partial(_sliding_window, n=2, partial_ones=False, by_key=True),
    "sliding_window by key with partial ones": partial(_sliding_window, n=2, partial_ones=True, by_key=True),
    "partition": partial(_partition, n=2),
    "partition by key": partial(_partition, n=2, key=_third),
    "partition_unique": partial(_partition_unique, n=2, keep="first"),
    "partition_unique of the last": partial(_partition_unique, n=2, keep="last"),
    "zip": _zip,
    "zip_latest": partial(_of_latest, join="zip_latest"),
    "combine_latest": partial(_of_latest, join="combine_latest"),
    "combine_latest on one": partial(_of_latest, join="combine_latest", emit_on=1),
    "collect": _collect,
    "union": _union,
    "filter": lambda s, _: s.filter(_is_kept),
    "flatten": lambda s, _: s.map(_twice).flatten(),
    "async map": _async_map,
    "async filter": _async_filter,
    "map_async": _map_async,
    "buffer": _buffer,
    "zip behind an async branch": _zip_behind_async,
    "union behind an async branch": lambda s, g: g.order(
        s, lambda s: Stream.union(*_late_even(s)), _each_side_in_order
    ),
    "combine_latest behind an async branch": lambda s, g: g.order(
        s, lambda s: Stream.combine_latest(*_late_even(s), **g.name("joined")), _pairs
    ),
    "timed_window": partial(_timed, made=lambda s: s.timed_window(_INTERVAL), check=_in_order),
    "partition with a timeout": partial(_timed, made=lambda s: s.partition(2, timeout=_INTERVAL), check=_in_order),
    "timed_window_unique": partial(
        _timed, made=lambda s: s.timed_window_unique(_INTERVAL, key=_third), check=_distinct
    ),
    "latest": lambda s, g: g.order(s, lambda s: s.latest(), _last),
    "delay": lambda s, g: s if g.is_oracle else s.delay(0.001),
    "check a": partial(_check, mark="a"),
    "check b": partial(_check, mark="b"),
}

# Their elements do not show what they were made of.
ENDS: dict[str, Segment] = {
    "frequencies": lambda s, g: g.remember(s.map(_third).frequencies(**g.name("frequencies")), _state).map(
        lambda counts: sorted(counts.items())
    ),
}

MARKS = ["a", "b", "accumulator"]


@dataclass(frozen=True)
class Shape:
    """What a graph looks like: a trunk, and branches behind it. Unnamed nodes have the names that Sluice gives them.

    batch         emit tuples of at most this many entries
    has_results   whether results go to a topic
    """

    trunk: list[str]
    branches: list[list[str]]
    is_named: bool = True
    batch: int | None = None
    has_results: bool = True

    @property
    def depends_on_time(self) -> bool:
        """Whether a life can emit other elements than the life before it would have emitted."""
        segments = {*self.trunk, *itertools.chain(*self.branches)}
        return self.batch is not None or not segments.isdisjoint(TIMED)


TIMED = {
    "union behind an async branch", "combine_latest behind an async branch", "timed_window", "partition with a timeout",
    "timed_window_unique", "latest",
}  # fmt: skip
"""Segments whose results depend on time."""


_ASYNCHRONOUS = ["async filter", "async map", "buffer", "map_async"]  # which leave work undone at a crash
_segments = st.sampled_from(sorted(SEGMENTS)) | st.sampled_from(_ASYNCHRONOUS)
BRANCHES = 2
_branch = st.builds(
    lambda body, end: body + end, st.lists(_segments, max_size=2), st.sampled_from([[], [], ["frequencies"]])
)
shapes = st.builds(
    Shape,
    trunk=st.lists(_segments, max_size=2),
    branches=st.lists(_branch, min_size=1, max_size=BRANCHES),
    is_named=st.booleans(),
    batch=st.sampled_from([None, None, None, 2]),
    has_results=st.sampled_from([True, True, False]),
)
