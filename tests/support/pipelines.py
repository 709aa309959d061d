"""Random pipelines for property tests: segments that can be chained in any order.

An element is 'topic/id' of an entry, or a tuple of elements, so that a test can always find an element's input entries.
"""

import asyncio
import copy
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from streamz import Stream

from tasks.base.ids import id_numbers

__all__ = ["SEGMENTS", "Segment", "Witness", "members", "pipelines"]


def members(element: Any) -> Iterator[str]:
    """Yield an element's input entries."""
    if isinstance(element, str):
        yield element
    else:
        for one in element:
            yield from members(one)


@dataclass
class Witness:
    """A record of the entries that one group's segments dropped or failed on.

    bad    the segment that must fail, by entry
    """

    bad: dict[str, str] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)

    def every_third(self, element: Any) -> bool:
        """Drop one element in three, the same ones in every life."""
        passes = sum(map(_number, members(element))) % 3 != 0
        if not passes:
            self.dropped.update(members(element))
        return passes

    async def every_third_later(self, element: Any) -> bool:
        """Drop the same elements asynchronously."""
        return self.every_third(await _later(element))

    def check(self, where: str) -> Callable[[Any], Any]:
        """Return a function that raises on elements with a bad entry."""

        def check(element: Any) -> Any:
            if any(self.bad.get(id_) == where for id_ in members(element)):
                for id_ in members(element):
                    self.failed[id_] = where
                msg = f"bad at {where}"
                raise ValueError(msg)
            return element

        check.__name__ = f"check_{where}"
        return check


def _number(entry: str) -> int:
    return sum(id_numbers(entry.partition("/")[2]))


def _is_even(element: Any) -> bool:
    return sum(map(_number, members(element))) % 2 == 0


def _is_odd(element: Any) -> bool:
    return not _is_even(element)


def _same(element: Any) -> Any:
    return element


async def _later(element: Any) -> Any:
    await asyncio.sleep(0.001 if _is_even(element) else 0)
    return element


async def _alone(element: Any) -> AsyncIterator[Any]:
    yield await _later(element)


def _halves(s: Stream) -> tuple[Stream, Stream]:
    return s.filter(_is_even), s.filter(_is_odd)


def _collect(s: Stream, _: Witness) -> Stream:
    collector = s.collect()
    s.filter(_is_odd).sink(lambda _: collector.flush())
    return collector


@dataclass(frozen=True)
class Segment:
    """A part of a pipeline, and its properties.

    loses     may drop entries without naming them in `Witness.dropped`
    keeps     keeps entries for later elements
    regroups  combines elements depending on time, chance, or the run's first entry
    """

    build: Callable[[Stream, Witness], Stream]
    loses: bool = False
    keeps: bool = False
    regroups: bool = False


SEGMENTS: dict[str, Segment] = {
    "map": Segment(lambda s, _: s.map(_same)),
    "starmap": Segment(lambda s, _: s.map(lambda x: (x,)).starmap(_same)),
    "pluck": Segment(lambda s, _: s.map(lambda x: {"x": x}).pluck("x")),
    "filter": Segment(lambda s, w: s.filter(w.every_third)),
    "remove": Segment(lambda s, w: s.remove(lambda x: not w.every_third(x))),
    "flatten": Segment(lambda s, _: s.map(lambda x: [x]).flatten()),
    "accumulate": Segment(lambda s, _: s.accumulate(lambda _, x: x)),
    "union": Segment(lambda s, _: Stream.union(*_halves(s))),
    "buffer": Segment(lambda s, _: s.buffer(2)),
    "delay": Segment(lambda s, _: s.delay(0.001)),
    "rate_limit": Segment(lambda s, _: s.rate_limit(0.0005)),
    "map_async": Segment(lambda s, _: s.map_async(_later, parallelism=3)),
    "map_in_processes": Segment(lambda s, _: s.map_in_processes(copy.copy, workers=2)),
    "async map": Segment(lambda s, _: s.map(_later)),
    "async filter": Segment(lambda s, w: s.filter(w.every_third_later)),
    "async flatten": Segment(lambda s, _: s.map(_alone).flatten()),
    "sliding_window": Segment(lambda s, _: s.sliding_window(2, return_partial=False), keeps=True),
    "sliding_window with partial ones": Segment(lambda s, _: s.sliding_window(3), regroups=True),
    "partition": Segment(lambda s, _: s.partition(2), keeps=True),
    "partition by key": Segment(lambda s, _: s.partition(2, key=_is_odd), keeps=True),
    "partition with timeout": Segment(lambda s, _: s.partition(3, timeout=0.002), regroups=True),
    "partition_unique": Segment(lambda s, _: s.partition_unique(2), loses=True),
    "timed_window": Segment(lambda s, _: s.timed_window(0.002).map(tuple).filter(bool), regroups=True),
    "timed_window_unique": Segment(lambda s, _: s.timed_window_unique(0.002).filter(bool), loses=True, regroups=True),
    "zip": Segment(lambda s, _: Stream.zip(*_halves(s)), keeps=True),
    "combine_latest": Segment(lambda s, _: Stream.combine_latest(*_halves(s)), loses=True, regroups=True),
    "zip_latest": Segment(lambda s, _: Stream.zip_latest(*_halves(s)), loses=True, regroups=True),
    "unique": Segment(lambda s, _: s.unique(), loses=True),
    "latest": Segment(lambda s, _: s.latest(), loses=True, regroups=True),
    "slice": Segment(lambda s, _: s.slice(1, None, 2), loses=True, regroups=True),
    "collect": Segment(_collect, regroups=True),
    "check a": Segment(lambda s, w: s.map(w.check("a"))),
    "check b": Segment(lambda s, w: s.map(w.check("b"))),
}

# Longer pipelines rarely find more faults.
pipelines = st.lists(st.sampled_from(sorted(SEGMENTS)), max_size=4)
