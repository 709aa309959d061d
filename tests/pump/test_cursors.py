"""Cursors: stored with the entries of their call, both or neither, whichever process ends."""

import copy
import threading
from collections.abc import Callable, Iterator
from typing import Any

import fakeredis
import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st

from tasks import Reservoir, TopicFullError, codec
from tasks.pump.cursor import Cursor
from tasks.pump.remembering import Remembering
from tasks.pump.run import PumpRun
from tasks.pump.ticks import Beat
from tasks.reservoir.cursors import CursorMove, CursorStore, Memory, Remembered, cursors
from tasks.reservoir.keep import Keep
from tasks.reservoir.retention import mark_seen
from tests.support.pumps import Clock, ending_all, pushed, settle
from tests.support.waiting import wait_until

Fresh = Callable[[], redis.Redis]


@pytest.fixture(autouse=True)
def end_all() -> Iterator[None]:
    with ending_all():
        yield


class Link:
    """A connection that ends after a number of commands: the last one reaches Redis or not, and its reply is lost."""

    def __init__(self, client: redis.Redis) -> None:
        self.client: Any = copy.copy(client)
        self.client.auto_close_connection_pool = False
        self.left: int | None = None  # commands until the cut; None: no cut
        self.arrives = True
        self.client.execute_command = self._counted(client.execute_command)
        self.client.pipeline = self._pipeline(client.pipeline)

    def cut(self, after: int, *, arrives: bool) -> None:
        self.left, self.arrives = after, arrives

    @property
    def is_cut(self) -> bool:
        return self.left is not None and self.left <= 0

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            if self.left is None:
                return call(*args, **options)
            self.left -= 1
            if self.left >= 0:
                answer = call(*args, **options) if self.left or self.arrives else None
                if self.left:
                    return answer
            msg = "out of reach"
            raise redis.ConnectionError(msg)

        return counted

    def _pipeline(self, make: Callable[..., Any]) -> Callable[..., Any]:
        def pipeline(*args: Any, **options: Any) -> Any:
            made = make(*args, **options)
            made.execute = self._counted(made.execute)
            return made

        return pipeline


class World:
    """Runs of one inlet, whose source has one more event with each second; kills, cuts, and a cursor set by hand.

    Each call fetches the events behind its cursor, two at most, as a source with pages does.
    """

    def __init__(self, client: Any) -> None:
        self.client, self.clock = client, Clock()
        self.began = self.clock.now
        self.alive: list[tuple[PumpRun, Link]] = []
        self.outcome = "entry"
        self.expected = 0  # the event that the topic's next entry has to be, minus one
        self.checked = 0
        self.store: CursorStore | None = None

    def pump(self, since: Cursor) -> list[dict[str, int]]:
        newest = min(int(self.clock.now - self.began), since.value + 2)
        found = [{"n": n} for n in range(since.value + 1, newest + 1)]
        if self.outcome == "skip":  # the cursor moves without an entry
            found = []
        since.value = newest
        if self.outcome == "error":
            raise OSError
        return found

    def start(self) -> None:
        link = Link(self.client)
        beat = Beat(Reservoir(link.client), "topic", "pump", every=1.0, remembers=True)
        self.store = CursorStore(self.client, (beat.cursor.key if beat.cursor else "").removeprefix("sluice:cursor:"))
        one = PumpRun(
            lambda: None,
            name="pump",
            beat=beat,
            remembering=Remembering(self.pump, name="pump", parameter="since", start=0),
            max_failures=2,
            window=12.0,
            clock=self.clock,
            timer=self.clock,
        )
        one.begin()
        self.alive.append((one, link))

    def stop(self) -> None:
        if self.alive:
            self.alive[0][0].stop()

    def kill(self, after: int, *, arrives: bool) -> None:
        """Kill the oldest run within its next commands, at any one of them."""
        if not self.alive:
            return
        self.alive[0][1].cut(after, arrives=arrives)
        self.tick()
        if not self.alive:
            return
        one, link = self.alive.pop(0)
        link.cut(0, arrives=False)
        one._handover.close()
        one._pusher.join(20)
        self.client.delete(one._beat._alive)

    def cut(self, after: int, *, arrives: bool) -> None:
        for _, link in self.alive:
            if link.left is None:
                link.cut(after, arrives=arrives)

    def mend(self) -> None:
        for one, link in self.alive:
            link.left = None
            with one._handover._changed:
                one._handover._changed.notify()

    def refuse(self) -> None:
        if self.client.type("topic") == b"stream":
            self.client.rename("topic", "aside")
            self.client.set("topic", "of another type")

    def allow(self) -> None:
        if self.client.type("topic") == b"string":
            self.client.rename("aside", "topic")

    def tick(self) -> None:
        self.clock.now += 1.0
        for one, link in list(self.alive):
            if one.step() is None or (one._ended and link.left is not None):
                self.end(one, link)
            elif link.left is None:
                wait_until(lambda one=one: one.step() is None or one._handover.uncalled() is None, "the cursor")
                settle(one)

    def end(self, one: PumpRun, link: Link) -> None:
        if link.left is None:
            wait_until(lambda: one.step() is None, "the end of the run")
        else:
            link.cut(0, arrives=False)
            self.client.delete(one._beat._alive)
        one.close()
        one._pusher.join(20)
        self.alive.remove((one, link))

    def check(self) -> None:
        """Assert that the cursor is where the entries end: never ahead of them, never behind."""
        assert self.store is not None
        value = self.store.read().memory.value
        stored = codec.decode(value) if value else 0
        found = pushed(self.client)
        assert found == list(range(1, len(found) + 1))
        assert stored == len(found)


def at(after: int, arrives: int) -> dict[str, Any]:
    return {"after": after, "arrives": bool(arrives)}


EVENTS: dict[str, Callable[[World, int], None]] = {
    "start": lambda world, _: world.start(),
    "stop": lambda world, _: world.stop(),
    "kill": lambda world, n: world.kill(**at(n // 2, n % 2)),
    "cut": lambda world, n: world.cut(**at(n // 2, n % 2)),
    "mend": lambda world, _: world.mend(),
    "refuse": lambda world, _: world.refuse(),
    "allow": lambda world, _: world.allow(),
    "entry": lambda world, _: setattr(world, "outcome", "entry"),
    "error": lambda world, _: setattr(world, "outcome", "error"),
}


@given(events=st.lists(st.tuples(st.sampled_from(sorted(EVENTS)), st.integers(0, 24), st.integers(0, 4)), max_size=12))
@example([("start", 0, 2), ("kill", 9, 1), ("start", 0, 2)])
@example([("start", 0, 2), ("cut", 7, 2), ("mend", 0, 2)])
@example([("refuse", 0, 3), ("allow", 0, 3), ("error", 0, 3), ("entry", 0, 3)])
def test_no_event_is_pushed_twice_or_left_out_wherever_a_run_is_killed(
    fresh_client: Fresh, events: list[tuple[str, int, int]]
) -> None:
    world = World(fresh_client())
    world.start()
    for event, n, ticks in events:
        EVENTS[event](world, n)
        for _ in range(ticks):
            world.tick()
    world.mend()
    world.allow()
    world.outcome = "entry"
    world.start()
    for _ in range(4):
        world.tick()
    for one, link in list(world.alive):
        one.stop()
        world.end(one, link)
    world.check()
    assert len(pushed(world.client)) > 0


def test_each_kill_within_a_tick_leaves_cursor_and_entries_together(fresh_client: Fresh) -> None:
    for after in range(1, 9):
        for arrives in (False, True):
            world = World(fresh_client())
            world.start()
            world.tick()
            world.tick()
            world.check()
            world.kill(after, arrives=arrives)
            world.check()
            world.start()
            for _ in range(4):
                world.tick()
            world.check()
            for one, link in list(world.alive):
                one.stop()
                world.end(one, link)


INLET = "pump:00000000000000aa"
RECORD = "sluice:push:{:032x}"


def moved(client: redis.Redis, *, version: int, value: bytes) -> CursorMove:
    return CursorMove(CursorStore(client, INLET).key, version, Memory(value))


@pytest.mark.usefixtures("every_way_to_append")
def test_an_append_with_a_move_does_both_or_neither_also_if_sent_again(client: redis.Redis) -> None:
    reservoir, store = Reservoir(client), CursorStore(client, INLET)
    [one] = reservoir.encode([{"n": 1}])

    def append(record: int, move: CursorMove, **options: Any) -> list[str] | None:
        return reservoir.append("topic", [one], record=RECORD.format(record), move=move, **options)

    first = append(0, moved(client, version=0, value=b"1"))
    assert first == append(0, moved(client, version=0, value=b"1"))
    assert (store.read().memory, store.read().version) == (Memory(b"1"), 1)
    assert append(1, moved(client, version=0, value=b"2")) is None
    assert append(2, moved(client, version=1, value=b"2"), expected="claimed:1") is None
    assert (store.read().memory, store.read().version) == (Memory(b"1"), 1)
    assert client.xlen("topic") == 1
    store.set(b"7")
    assert append(3, moved(client, version=1, value=b"2")) is None
    assert append(3, moved(client, version=2, value=b"2"))
    assert (store.read().memory, store.read().version) == (Memory(b"2"), 3)
    assert client.xlen("topic") == 2


@pytest.mark.usefixtures("every_way_to_append")
def test_a_full_topic_leaves_the_cursor_as_it_was(client: redis.Redis) -> None:
    reservoir, store = Reservoir(client), CursorStore(client, INLET)
    entries = reservoir.encode([{"n": n} for n in range(200)])
    client.xgroup_create("topic", "group", "0", mkstream=True)
    mark_seen(client, "topic", "group")

    def fill() -> None:
        for version in range(9):
            move = moved(client, version=version, value=str(version).encode())
            reservoir.append("topic", entries, record=RECORD.format(version), move=move, keep=Keep.of(100, "wait"))

    with pytest.raises(TopicFullError):
        fill()
    pushes = client.xlen("topic") // len(entries)
    assert (store.read().version, store.read().memory) == (pushes, Memory(str(pushes - 1).encode()))


def test_a_refused_append_leaves_no_cursor(client: redis.Redis) -> None:
    reservoir, store = Reservoir(client), CursorStore(client, INLET)
    client.set("topic", "of another type")
    with pytest.raises(redis.ResponseError):
        reservoir.append(
            "topic", reservoir.encode([{"n": 1}]), record=RECORD.format(0), move=moved(client, version=0, value=b"1")
        )
    assert store.read() == Remembered()
    assert list(cursors(client)) == []


def test_cursors_are_listed_by_the_name_of_their_inlet(client: redis.Redis) -> None:
    digest = "00000000000000aa"
    for name in ("pump", "pumps", "p*mp"):
        CursorStore(client, f"{name}:{digest}").set(b"1")
    assert list(cursors(client)) == [f"{name}:{digest}" for name in ("p*mp", "pump", "pumps")]
    assert list(cursors(client, "pump")) == [f"pump:{digest}"]
    assert list(cursors(client, "p*mp")) == [f"p*mp:{digest}"]


def test_a_cursor_that_is_set_during_a_call_is_kept_and_the_call_repeated() -> None:
    client = fakeredis.FakeRedis(server=fakeredis.FakeServer(version=(7,)), protocol=2)
    world = World(client)
    world.start()
    world.tick()
    one, link = world.alive[0]
    entered, leave = threading.Event(), threading.Event()

    def slow(since: Cursor) -> list[dict[str, int]]:
        if not leave.is_set():
            entered.set()
            leave.wait(10)
        return world.pump(since)

    one._calls._remembering = Remembering(slow, name="pump", parameter="since", start=0)
    one._calls._threads = 1
    world.clock.now += 1.0
    one.step()
    assert entered.wait(10)
    assert world.store
    world.store.set(codec.encode(0))
    leave.set()
    wait_until(lambda: not one._handover.jobs, "the push")
    assert one.summary.reasons == {"the cursor was moved during the call, by hand or by another run": 1}
    world.tick()
    assert pushed(client) == [1, 1, 2]
    one.stop()
    world.end(one, link)
