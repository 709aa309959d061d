"""State, results and acknowledgements agree after any sequence of events: random graphs, crashes, hand-overs and Redis set back.

The oracle is the same graph on plain streamz, fed by hand with the entries in the order in which the graph got them. That order is
remembered by the graph's first node, and is checked by itself: each entry once, in id order, except replayed dead letters.
At rest, these are equal to the oracle's:

- what each node holds, also after another restart;
- the results in each target topic, each once and in order;
- the failed entries, each a dead letter once, with its fields;
- what the sinks saw, except that a sink sees the elements of the last cut on again after a crash.

And no entry is pending.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import redis
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from streamz import Stream
from tornado.ioloop import IOLoop

from tasks import LeaseLostError, PipelineError, Reservoir, StateConflictError
from tasks.base.ids import id_numbers
from tasks.base.loop_thread import outside_of_loops
from tasks.codec import encode_fields
from tasks.group.dead_letters import DeadLetters
from tasks.nodes.from_redis import from_redis
from tasks.pipeline.graphs import graph
from tasks.pipeline.guard import secure
from tasks.state.remembering import memories
from tests.support.stateful import MARKS, Graph, Shape, Witness, members, shapes
from tests.support.streams import dead, lossy, open_with, pending, read_ahead

Fresh = Callable[[], redis.Redis]
GROUP = "group"
TOPICS = ["one", "two"]
_BEGINNING = 1_700_000_000_000


class World:
    """Redis, and the model of its entries."""

    def __init__(self, client: redis.Redis, shape: Shape, topics: list[str]) -> None:
        self.client: Any = client
        self.shape = shape
        self.topics = topics
        self.witness = Witness()
        self.now = _BEGINNING
        self.serial = 0
        self.pushed: list[str] = []
        self.replayed: Counter[str] = Counter()
        self.lives: list[Life] = []
        self.seen: list[list[list[str]]] = []
        """What the sinks of each life saw, by branch."""
        self.was_set_back = False
        self.was_late = False
        """Whether a life may have read after its successor had read on."""
        self._names: dict[tuple[str, str], str] = {}

    # --- entries ---

    def push(self, topic: str, mark: str | None, gap: int) -> None:
        self.now += gap
        self.serial += 1
        name = f"n{self.serial}"
        id_ = f"{self.now}-{self.serial}"
        self.client.xadd(topic, encode_fields({"name": name}), id=id_)
        self.witness.times[name] = self.now
        self.pushed.append(name)
        if mark is not None:
            self.witness.bad[name] = mark

    def enter(self, element: Any) -> Any:
        """Name an entry, or each of a list: a replayed dead letter has a name of its own."""
        return tuple(map(self._enter, element)) if isinstance(element, list) else self._enter(element)

    def _enter(self, entry: Any) -> str:
        name, origin = entry["name"], entry.origin
        if origin[0] in TOPICS:
            return name
        if origin not in self._names:
            self._names[origin] = f"{name} replayed {len(self._names)}"
            self.witness.times[self._names[origin]] = id_numbers(origin[1])[0]
        return self._names[origin]

    def replay(self) -> None:
        """Replay all dead letters."""
        for topic in self.topics:
            if names := {letter.id: letter["name"] for letter in dead(self.client, topic, GROUP)}:
                letters = DeadLetters(self.client, topic, GROUP)
                for letter, outcome in letters.replay(letters.choose(), into_windows=True):
                    assert outcome == "replayed"
                    self.replayed[names[letter.id]] += 1

    # --- an older state ---

    def snapshot(self) -> tuple[Any, ...]:
        keys = {key: (self.client.dump(key), self.client.pttl(key)) for key in self.client.keys("*")}
        return keys, list(self.pushed), self.replayed.copy()

    def set_back(self, snapshot: tuple[Any, ...]) -> None:
        keys, pushed, replayed = snapshot
        self.was_set_back = True
        self.client.flushall()
        for key, (data, ttl) in keys.items():
            self.client.restore(key, max(ttl, 0), data)
        self.pushed, self.replayed = list(pushed), replayed.copy()
        alive = {life.membership.fence.lease for life in self.lives if not life.asleep}
        for key in self.client.keys("sluice:lease:*"):  # time passes until the leases of the dead have expired
            if key.decode() not in alive:
                self.client.delete(key)
        for life in self.lives:
            life.may_conflict = True


class Life:
    """One run of a consumer with its graph, in a loop of its own."""

    def __init__(self, world: World, *, max_entries: int) -> None:
        self.world = world
        self.client = lossy(world.client)
        self.asleep = False
        self.is_held_up = False
        self.may_conflict = False
        """Whether another consumer may have taken over, or Redis was set back."""
        self._max_entries = max_entries
        self._runner = asyncio.Runner()
        self._runner.run(self._build())

    async def _build(self) -> None:
        self.source = from_redis(
            self.world.topics,
            group=GROUP,
            client=self.client,
            loop=IOLoop.current(),
            asynchronous=True,
            max_entries=self._max_entries,
            batch=self.world.shape.batch,
            max_deliveries=1000,
        )
        self.seen: list[list[str]] = []
        self.world.seen.append(self.seen)
        self.graph = Graph(self.source.map(self.world.enter), self.world.shape, self.world.witness, is_oracle=False)
        self._sinks: list[Stream] = []
        for n, output in enumerate(self.graph.outputs):
            self.seen.append([])
            self._sinks.append(output.map(repr).sink(self.seen[-1].append))
            if self.world.shape.has_results:
                self._sinks.append(output.map(lambda element: {"of": repr(element)}).to_redis(f"out{n}"))
        self.run = open_with(self.source, self.client)
        self.membership = self.run.consumer.membership

    def step(self, *, ahead: bool = False, nap: float = 0.002) -> int:
        """Renew the lease, step once, and give asynchronous work `nap` seconds. Returns 1 if something may be left to do."""

        async def step() -> int:
            came = await self.source.step()
            await asyncio.sleep(nap)
            return came

        consumer = self.run.consumer
        consumer._next_renewal = 0.0
        if not ahead:
            consumer._next_claim = 0.0
        read_ahead(self.source, ahead=ahead)
        try:
            return self._runner.run(step())
        except redis.RedisError:  # a lost reply; or the group is gone with its topic, which the next step restores
            return 1
        except (LeaseLostError, StateConflictError):
            assert self.may_conflict, "no other run was there"
            with contextlib.suppress(redis.ConnectionError, LeaseLostError):
                self.run.consumer.leave()
            self.world.client.delete(self.membership.fence.lease)
            self._end()
            return 1

    def go_on(self) -> None:
        """Let asynchronous work continue without a step."""
        self._runner.run(asyncio.sleep(0.003))

    def sleep(self) -> None:
        """Pause it for longer than its lease."""
        self.asleep = self.may_conflict = True
        self.world.client.delete(self.membership.fence.lease)

    def stop(self) -> None:
        """Stop it in good order, or crash it if the connection breaks."""

        async def close() -> None:
            self.source.close()

        try:
            self._runner.run(close())
        except redis.ConnectionError:
            self.world.client.delete(self.membership.fence.lease)
        except (LeaseLostError, StateConflictError):
            assert self.may_conflict, "no other run was there"
            self.world.client.delete(self.membership.fence.lease)
        self._end()

    def crash(self) -> None:
        """End it like a killed process, and let its lease expire."""
        self.world.client.delete(self.membership.fence.lease)
        self._end()

    def _end(self) -> None:
        self.world.lives.remove(self)
        self.source.let_go()  # ends processes that nodes have started, and closes connections
        self._runner.close()

    @property
    def has_ended(self) -> bool:
        return self not in self.world.lives


class KeptState(RuleBasedStateMachine):
    """The state machine that the module describes."""

    def __init__(self, fresh: Fresh) -> None:
        super().__init__()
        self.client = fresh()
        self.snapshot: Any = None

    @initialize(shape=shapes, topics=st.sampled_from([TOPICS[:1], TOPICS]))
    def make(self, shape: Shape, topics: list[str]) -> None:
        self.world = World(self.client, asyncio.run(_with_names(shape)), topics)
        self.start(max_entries=3)

    @rule(
        topic=st.sampled_from(TOPICS),
        marks=st.lists(st.sampled_from([None, None, None, *MARKS]), min_size=1, max_size=5),
        gap=st.sampled_from([0, 1, 1, 10]),
    )
    def push(self, topic: str, marks: list[str | None], gap: int) -> None:
        for mark in marks:
            self.world.push(topic if topic in self.world.topics else TOPICS[0], mark, gap)

    @rule(max_entries=st.integers(1, 4))
    def start(self, max_entries: int) -> None:
        if len(self.world.lives) < 3:
            self.world.lives.append(Life(self.world, max_entries=max_entries))

    @rule(nth=st.integers(0, 2), times=st.integers(1, 4), ahead=st.booleans(), nap=st.sampled_from([0.0, 0.0, 0.002]))
    def step(self, nth: int, times: int, ahead: bool, nap: float = 0.002) -> None:
        for life in self._life(nth):
            life.asleep = False
            for _ in range(times):
                life.step(ahead=ahead, nap=nap)
                if life.has_ended:
                    return

    @rule(
        topic=st.sampled_from(TOPICS),
        marks=st.lists(st.sampled_from([None, None, None, *MARKS]), min_size=1, max_size=4),
        saves=st.booleans(),
        times=st.integers(1, 2),
        nap=st.sampled_from([0.0, 0.0, 0.002]),
        end=st.sampled_from(["crash", "crash", "stop", "sleep", "set back", "nothing"]),
    )
    def live(self, *, topic: str, marks: list[str | None], saves: bool, times: int, nap: float, end: str) -> None:
        """Push entries, have the oldest life work on them, and end it, perhaps while work is under way."""
        if not self.world.lives:
            self.start(max_entries=4)
        if saves:
            self.take_a_snapshot()
        self.push(topic=topic, marks=marks, gap=1)
        self.step(nth=0, times=times, ahead=False, nap=nap)
        if end == "set back" and self.snapshot is not None:
            self.set_back()
        elif end != "nothing" and self.world.lives:
            {"crash": self.crash, "stop": self.stop}.get(end, self.sleep)(nth=0)

    @rule(nth=st.integers(0, 2))
    def go_on(self, nth: int) -> None:
        for life in self._life(nth):
            life.go_on()

    @rule(nth=st.integers(0, 2))
    def crash(self, nth: int) -> None:
        for life in self._life(nth):
            life.crash()

    @rule(nth=st.integers(0, 2))
    def stop(self, nth: int) -> None:
        for life in self._life(nth):
            life.stop()

    @rule(nth=st.integers(0, 2))
    def sleep(self, nth: int) -> None:
        for life in self._life(nth):
            life.sleep()

    @rule(nth=st.integers(0, 2), command=st.integers(1, 10))
    def lose_a_reply(self, nth: int, command: int) -> None:
        for life in self._life(nth):
            life.client.loses_in = command

    @rule(
        nth=st.integers(0, 2),
        command=st.integers(1, 12),
        what=st.sampled_from(["take over", "set back", "push"]),
        steps=st.integers(0, 3),
    )
    def hold_up(self, nth: int, command: int, what: str, steps: int = 2) -> None:
        """Hold up a life before one of its next commands, while something else happens."""
        for life in self._life(nth):
            life.client.halts_in = command
            life.client.meanwhile = partial(self._meanwhile, life, what, steps)

    def _meanwhile(self, life: Life, what: str, steps: int) -> None:
        if any(one.is_held_up for one in self.world.lives):
            return
        life.is_held_up = True
        try:
            self._do(life, what, steps)
        finally:
            life.is_held_up = False

    def _do(self, life: Life, what: str, steps: int) -> None:
        if what == "push":
            self.world.push(TOPICS[0], None, 1)
        elif what == "set back" and self.snapshot is not None:
            self.world.set_back(self.snapshot)
        elif what == "take over":
            life.sleep()
            self.world.was_late = True
            outside_of_loops(partial(self._take_over, life, steps))

    def _take_over(self, life: Life, steps: int) -> None:
        others = [one for one in self.world.lives if one is not life]
        if not others:
            self.world.lives.append(Life(self.world, max_entries=2))
            others = self.world.lives[-1:]
        for _ in range(steps):
            others[0].step()
            if others[0].has_ended:
                return

    @rule()
    def replay(self) -> None:
        self.world.replay()

    @rule()
    def take_a_snapshot(self) -> None:
        self.snapshot = self.world.snapshot()

    @precondition(lambda self: self.snapshot is not None)
    @rule()
    def set_back(self) -> None:
        self.world.set_back(self.snapshot)

    def _life(self, nth: int) -> list[Life]:
        """Return the life with that number modulo their count, if there is any."""
        lives = self.world.lives
        return [lives[nth % len(lives)]] if lives else []

    def teardown(self) -> None:
        world = self.world
        for life in list(world.lives):
            life.crash()
        last = self._run_to_rest()
        log = last.graph.log
        names = list(members(tuple(log)))
        new = [name for name in names if name == _entry(name)]
        assert world.was_late or new == world.pushed, "each entry once, in order"
        assert Counter(new) == Counter(world.pushed), "each entry once"
        assert Counter(_entry(name) for name in names if name != _entry(name)) == world.replayed
        expected = asyncio.run(_oracle(world, log, last.graph.orders))
        assert last.graph.contents() == expected.contents
        for n, results in enumerate(expected.results):
            if world.shape.has_results:
                found: list[Any] = Reservoir(self.client).peek(f"out{n}", 100_000)
                assert [entry["of"] for entry in found] == results
            self._check_sinks([seen[n] for seen in world.seen], results)
        for topic in world.topics:
            assert pending(self.client, topic, GROUP) == []
        letters = Counter(letter["name"] for topic in world.topics for letter in dead(self.client, topic, GROUP))
        assert letters + world.replayed == Counter(map(_entry, world.witness.failed))
        last.stop()
        again = self._run_to_rest()
        assert again.graph.contents() == expected.contents, "after a restart"
        again.stop()

    def _check_sinks(self, seen: list[list[str]], expected: list[str]) -> None:
        """Check that each life's sink saw elements without a gap, and that each element was seen."""
        if self.world.was_set_back or self.world.was_late or self.world.shape.depends_on_time:
            return  # entries that the sinks saw are gone, or were seen in another order before
        for one in seen:
            assert any(expected[start : start + len(one)] == one for start in range(len(expected) + 1))
        assert {element for one in seen for element in one} == set(expected)

    def _run_to_rest(self) -> Life:
        last = Life(self.world, max_entries=10)
        self.world.lives.append(last)
        quiet, steps = 0, 0
        while quiet < 3:
            steps += 1
            assert steps < 300, "the graph did not come to rest"
            came = last.step()
            is_busy = last.run.secured.waiting or last.run.consumer.held or last.graph.is_waiting
            quiet = 0 if came or is_busy else quiet + 1
        return last


def _entry(name: str) -> str:
    """Return the name of an entry without what marks a replayed one."""
    return name.partition(" ")[0]


async def _with_names(shape: Shape) -> Shape:
    """Return a shape with distinguishable nodes: named, if Sluice's automatic names are ambiguous."""
    source = Stream(asynchronous=True)
    made = Graph(source, shape, Witness(), is_oracle=False)
    secure(source)
    try:
        memories(graph(source))
    except PipelineError:
        return replace(shape, is_named=True)
    finally:
        del made
    return shape


class Expected:
    """The state and the output of the oracle."""

    def __init__(self, contents: dict[str, str], results: list[list[str]]) -> None:
        self.contents, self.results = contents, results


async def _oracle(world: World, log: list[Any], orders: list[list[Any]]) -> Expected:
    source = Stream(asynchronous=True)
    world.witness.failed.clear()
    made = Graph(source.map(lambda name: name), world.shape, world.witness, is_oracle=True, orders=orders)
    results: list[list[str]] = []
    sinks = []
    for output in made.outputs:
        results.append([])
        sinks.append(output.map(repr).sink(results[-1].append))
    for name in log:
        await source.emit(name)
    await made.finish()
    return Expected(made.contents(), results)


# A crash leaves asynchronous work undone, in part before its first step.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(900)
def test_state_results_and_acknowledgements_agree_with_plain_streamz(fresh_client: Fresh) -> None:
    run_state_machine_as_test(lambda: KeptState(fresh_client))
