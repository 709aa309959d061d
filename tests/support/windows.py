"""Windows of event time by brute force, and lives of a pipeline in which entries come step by step."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import redis
from hypothesis import strategies as st

from tasks import Entry
from tasks.testing import Bench

__all__ = [
    "MINUTE",
    "Came",
    "Life",
    "Options",
    "at",
    "came",
    "entries_of",
    "lived",
    "lives",
    "model",
    "ticked",
    "watermarks",
]

TOPICS = ["left", "right"]
START = 1_700_000_000_000  # whole seconds, minutes and more: windows of some ms begin here
MINUTE = 1_700_000_040_000  # in ms, the beginning of a minute


@dataclass(frozen=True)
class Came:
    """An element: when its entry was appended, its topic, its event time, both in ms after START, its key and value."""

    at: int
    topic: str
    time: int
    key: str
    value: float | None


@dataclass(frozen=True)
class Options:
    """Options of a window in ms."""

    size: int
    every: int
    lateness: int
    close_after: int | None
    late: str = "drop"

    def as_given(self) -> dict[str, Any]:
        """Return them as the node takes them."""
        names = {name: f"{ms}ms" for name, ms in vars(self).items() if isinstance(ms, int)}
        return names | {"close_after": self.close_after and f"{self.close_after}ms", "late": self.late}


@dataclass(frozen=True)
class Life:
    """What happens after each element: seconds of waiting as shares of the time until the next one, and deaths.

    deaths   by number of the element: 'crash', 'stop', or None
    reads    whether the pipeline reads after each element, or lets a backlog grow
    """

    waits: list[float]
    deaths: list[str | None]
    reads: list[bool]


def came(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Came]]:
    """Return elements in the order of their ids, most of them nearly on time."""
    one = st.tuples(
        st.sampled_from([0, 1, 1, 2, 3, 7, 30, 200]),
        st.sampled_from(TOPICS),
        st.sampled_from([0, 0, 0, 1, 2, 5, 9, 40]),
        st.sampled_from("ab"),
        values,
    )

    def placed(drawn: list[Any]) -> list[Came]:
        at, found = 100, []
        for gap, topic, delay, key, value in drawn:
            # Redis releases entries of one millisecond of several topics together, which ids made here do not.
            at += max(gap, int(bool(found) and found[-1].topic != topic))
            found.append(Came(at, topic, at - delay, key, value))
        return found

    return st.lists(one, min_size=1, max_size=20).map(placed)


def ticked(keys: str) -> st.SearchStrategy[list[Came]]:
    """Return elements of ticks of both topics, in the order of their ids: each tick has one for each key, is late, or is missing."""
    delays = st.sampled_from([None, None, 0, 0, 0, 0, 1, 4, 9, 40])
    tick = st.tuples(st.sampled_from([5, 5, 5, 10, 30, 200]), delays, delays, st.integers(1, len(keys)))

    def placed(drawn: list[tuple[int, int | None, int | None, int]]) -> list[Came]:
        time, found = 100, []
        for gap, *late, number in drawn:
            time += gap
            # Ids of the topics differ, see `came`: even for one, odd for the other.
            found += [
                Came(2 * (time + delay) + side, topic, 2 * time, key, None)
                for side, (topic, delay) in enumerate(zip(TOPICS, late, strict=True))
                if delay is not None
                for key in keys[:number]
            ]
        return sorted(found, key=lambda one: one.at)

    return st.lists(tick, min_size=1, max_size=6).map(placed).filter(bool)


options = st.builds(
    lambda size, parts, lateness, close_after: Options(size, size // parts, lateness, close_after),
    st.sampled_from([6, 12, 30]),
    st.sampled_from([1, 1, 2, 3, 4]),  # 4: windows begin more often, and none begins where another ends
    st.sampled_from([0, 1, 7, 20]),
    st.sampled_from([None, 4, 25]),
)


def lives(n: int) -> st.SearchStrategy[Life]:
    """Return what happens after each of n elements."""
    shares = st.sampled_from([0.0, 0.0, 0.3, 1.0])
    deaths = st.sampled_from([None, None, None, "crash", "stop"])
    return st.builds(
        Life,
        *(st.lists(each, min_size=n, max_size=n) for each in (shares, deaths, st.booleans())),
    )


def entries_of(elements: list[Came]) -> list[Entry]:
    """Return the entries of elements, with ids of their own."""
    numbers: dict[tuple[str, int], int] = {}
    found = []
    for each in elements:
        number = numbers[each.topic, each.at] = numbers.get((each.topic, each.at), -1) + 1
        fields = {"key": each.key, "value": each.value}
        id_ = f"{START + each.at}-{number}"
        found.append(Entry(fields, topic=each.topic, id=id_, time_ms=START + each.time))
    return found


def lived(
    build: Callable[..., Any], elements: list[Came], client: redis.Redis, life: Life | None = None, **bench: Any
) -> Bench:
    """Return the bench on which a pipeline has got all elements; without a life all at once, as in a replay."""
    entries = entries_of(elements)
    with Bench(build, topics=TOPICS, client=client, into="results", **bench) as made:
        if life is None:
            made.push(*entries)
        else:
            waiting: list[Entry] = []
            for n, entry in enumerate(entries):
                waiting.append(entry)
                is_last = n + 1 == len(entries)
                gap = 0 if is_last else elements[n + 1].at - elements[n].at
                if not (life.reads[n] or is_last):
                    continue
                made.push(*waiting)
                waiting.clear()
                if life.deaths[n] == "crash":
                    made.crash(after=1)
                elif life.deaths[n] == "stop":
                    made.step()
                    made.stop()
                if gap * life.waits[n] >= 1:
                    made.advance(int(gap * life.waits[n]) / 1000)
                else:
                    made.step()
        made.drain()
        made.stop()
    return made


def watermarks(elements: list[Came], options: Options, lateness: int) -> Iterator[tuple[Came, float]]:
    """Yield each element with the watermark just before it, found by looking at every millisecond.

    A topic is idle for `close_after` after its last element; the watermark is the least newest time of the others, less the lateness,
    and goes on with time where all are idle.
    """
    value, now = float("-inf"), elements[0].at
    for n, element in enumerate(elements):
        while True:
            before = [one for one in elements[:n] if one.at <= now]
            value = max(value, _reached(before, now, options.close_after) - lateness)
            if now >= element.at:
                break
            now += 1
        yield element, value


def _reached(before: list[Came], now: int, close_after: int | None) -> float:
    if not before:
        return float("-inf")
    idle = float("inf") if close_after is None else close_after
    newest = {topic: max(one.time for one in before if one.topic == topic) for topic in {one.topic for one in before}}
    last = {topic: max(one.at for one in before if one.topic == topic) for topic in newest}
    active = [newest[topic] for topic in newest if now - last[topic] < idle]
    if active:
        return min(active)
    since = {topic: min(o.at for o in before if o.topic == topic and o.time == newest[topic]) for topic in newest}
    return max(newest[topic] + max(0, now - since[topic] - idle) for topic in newest)


def model(elements: list[Came], options: Options) -> tuple[dict[tuple[int, str], list[Came]], list[Came]]:
    """Return the elements of each window and key, by the beginning of the window, and the late elements."""
    windows: dict[tuple[int, str], list[Came]] = {}
    late = []
    stays = options.lateness if options.late == "update" else 0
    for element, watermark in watermarks(elements, options, options.lateness - stays):
        first = (element.time + START) // options.every * options.every - START
        starts = [
            first - n * options.every
            for n in range(options.size)
            if first - n * options.every + options.size > element.time
        ]
        open_ = [start for start in starts if start + options.size + stays > watermark]
        if first not in open_:
            late.append(element)
        for start in open_ if first in open_ else ():
            windows.setdefault((start, element.key), []).append(element)
    return windows, late


def at(seconds: float, *, came_at: float | None = None, n: Any = 1) -> Entry:
    """Return an entry of an event time in seconds after MINUTE, which was appended then or at another time."""
    ms = round(1000 * seconds)
    id_ = ms if came_at is None else round(1000 * came_at)
    return Entry({"n": n, "at": ms + MINUTE}, topic="topic", id=f"{MINUTE + id_}-0", time_ms=MINUTE + ms)
