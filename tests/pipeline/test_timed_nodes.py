"""`TimedNodes`: nodes emit in the order of the times at which something is due, and nodes side by side in that of the graph."""

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from streamz import Stream

from tasks.pipeline.timed_nodes import TimedNodes


class Alarm(Stream):
    """Emits each of its times once that has come, and takes the times that reach it from upstream, a little later."""

    def __init__(self, *upstreams: Stream, name: str, times: list[int], log: list[tuple[str, int]]) -> None:
        super().__init__(upstreams=list(upstreams))
        self.label, self.times, self.log = name, sorted(times), log

    @property
    def due(self) -> int | None:
        return self.times[0] if self.times else None

    def pass_time(self, ms: int) -> list[Any]:
        waiting: list[Any] = []
        while self.times and self.times[0] <= ms:
            time = self.times.pop(0)
            self.log.append((self.label, time))
            waiting += self._emit(time)
        return waiting

    def update(self, x: int, who: Any = None, metadata: Any = None) -> list[Any]:
        self.times = sorted([*self.times, x + 3])
        return []


TIMES = st.lists(st.integers(0, 30), max_size=6)


def diamond(first: list[int], second: list[int], log: list[tuple[str, int]]) -> list[Stream]:
    """Return two nodes side by side, and one behind both, in an order that is none of the graph's."""
    source = Stream()
    left = Alarm(source, name="left", times=first, log=log)
    right = Alarm(source, name="right", times=second, log=log)
    behind = Alarm(left, right, name="behind", times=[], log=log)
    return [behind, source, left, right]


def passed(nodes: TimedNodes, *times: int) -> None:
    async def main() -> None:
        for ms in times:
            await nodes.pass_time(ms)

    asyncio.run(main())


@given(first=TIMES, second=TIMES, steps=st.lists(st.integers(0, 40), max_size=5))
def test_emissions_have_one_order_however_far_time_has_passed_at_once(
    first: list[int], second: list[int], steps: list[int]
) -> None:
    found = []
    for times in ([100], [*sorted(steps), 100]):
        log: list[tuple[str, int]] = []
        passed(TimedNodes(diamond(first, second, log)), *times)
        found.append(log)
    assert found[0] == found[1]
    rank = {"left": 0, "right": 1, "behind": 2}
    assert found[0] == sorted(found[0], key=lambda one: (one[1], rank[one[0]]))
    assert len(found[0]) == 2 * (len(first) + len(second)), "each once, and once more behind"


def test_node_emits_before_the_nodes_behind_it_at_the_same_time() -> None:
    log: list[tuple[str, int]] = []
    nodes = diamond([5, 8], [8], log)
    passed(TimedNodes(nodes), 8)
    assert log == [("left", 5), ("left", 8), ("right", 8), ("behind", 8)]
    assert TimedNodes(nodes).due == 11


def test_due_is_the_first_of_all_nodes_and_no_time_passes_before_it() -> None:
    log: list[tuple[str, int]] = []
    nodes = TimedNodes(diamond([7], [9], log))
    passed(nodes, 6)
    assert (nodes.due, log, nodes.meet) == (7, [], True)
    passed(nodes, 100)
    assert nodes.due is None


def test_graph_without_timed_nodes_is_never_due() -> None:
    nodes = TimedNodes([Stream(), Stream()])
    assert (bool(nodes), nodes.due, nodes.meet) == (False, None, False)
    passed(nodes, 5)


class Slow(Stream):
    """Notes each element after a while."""

    def __init__(self, upstream: Stream, log: list[Any]) -> None:
        super().__init__(upstream)
        self.log = log

    async def update(self, x: Any, who: Any = None, metadata: Any = None) -> None:
        await asyncio.sleep(0)
        self.log.append(("slow", x))


def test_emission_is_awaited_before_the_next_one() -> None:
    log: list[Any] = []
    first, second = (Alarm(name=name, times=[1, 2], log=log) for name in ("first", "second"))
    kept = [Slow(first, log), Slow(second, log)]
    passed(TimedNodes([first, second]), 2)
    assert log == [each for n in (1, 2) for name in ("first", "second") for each in ((name, n), ("slow", n))]
    del kept
