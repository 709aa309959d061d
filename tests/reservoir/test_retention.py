"""Retention against a model: groups read, leave, keep entries pending and are forgotten, while entries are pushed."""

import dataclasses
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st

from tasks import Reservoir, SettingsError, TopicFullError
from tasks.group import held_entries
from tasks.group.consumer import Consumer
from tasks.group.dead_letter_limits import DeadLetterLimits
from tasks.reservoir.keep import Keep, WhenFull
from tasks.reservoir.keys import topic_keys
from tasks.reservoir.levels import _LEVEL, Levels
from tasks.reservoir.lua import Script
from tasks.reservoir.reservoir import _APPEND
from tasks.reservoir.retention import LATELY_MS, Retention
from tests.support.streams import at_work, push_all, run

Fresh = Callable[[], redis.Redis]
Id = tuple[int, int]

GROUPS = ["a", "b", "c"]
# Redis puts two of these into a node, so that a trim leaves only a few entries more than it should.
SIZE = 1_500
BATCH = 12

groups = st.sampled_from(GROUPS)
push = st.tuples(st.just("push"), st.integers(1, BATCH))
read = st.tuples(st.just("read"), groups, st.integers(1, 12))
operation = st.one_of(
    push,
    push,
    read,
    read,
    st.tuples(st.just("ack"), groups, st.lists(st.integers(0, 20), max_size=8)),  # others stay pending, as in a window
    st.tuples(st.just("finish"), groups),
    st.tuples(st.just("new"), groups, st.booleans()),
    st.tuples(st.sampled_from(["forget", "seen"]), groups),
    st.tuples(st.just("trim")),
)
deletion = st.tuples(st.just("delete"), st.integers(0, 30))
foreign = st.tuples(st.just("foreign"), st.integers(1, 4))
keeps = st.builds(Keep, st.integers(1, 24), when_full=st.sampled_from(["spill", "wait"]))


def operations(*others: Any) -> Any:
    return st.lists(st.one_of(operation, *others), min_size=20, max_size=60)


def as_id(text: bytes | str) -> Id:
    ms, _, sequence = (text if isinstance(text, str) else text.decode()).partition("-")
    return int(ms), int(sequence)


def as_text(entry: Id) -> str:
    return f"{entry[0]}-{entry[1]}"


def replaced(script: Script, old: str, new: str) -> Script:
    """Return a script with another constant, so that a few entries trigger in a test what otherwise takes many."""
    assert script.body.count(old) == 1
    return dataclasses.replace(script, body=script.body.replace(old, new))


class World:
    """A topic on a server, and its model."""

    def __init__(self, client: redis.Redis, keep: Keep) -> None:
        self.client: Any = client
        self.keep = keep
        self.reservoir = Reservoir(client)
        self.reservoir._append = replaced(_APPEND, "since >= 64", "since >= 3").on(client)
        self.retention = Retention(client)
        self.levels = Levels(client)
        self.levels._level = replaced(_LEVEL, "n > 2000", "n > 12").on(client)
        self.pushed: list[Id] = []
        self.there: set[Id] = set()
        self.appended = self.deleted = self.swept = self.others = False
        self.last: dict[str, Id] = {}
        self.pending: dict[str, set[Id]] = {}
        self.forgotten: set[str] = set()
        self.spilled: Counter[str] = Counter()
        self.refused = 0
        self.held: deque[int] = deque(maxlen=2)

    @property
    def live(self) -> set[str]:
        return set(self.last) - self.forgotten

    def unread(self, group: str) -> set[Id]:
        return {entry for entry in self.there if entry > self.last[group]}

    def do(self, what: str, *arguments: Any) -> None:
        if what == "new" or what in ("push", "trim", "foreign") or (arguments and arguments[0] in self.last):
            getattr(self, what)(*arguments)
        elif what == "delete" and self.there:
            entry = sorted(self.there)[arguments[0] % len(self.there)]
            self.client.xdel("topic", as_text(entry))
            self.there.remove(entry)
            self.deleted = True

    def push(self, n: int) -> None:
        try:
            ids = self.reservoir.push_many("topic", [{"n": b"x" * SIZE}] * n, keep=self.keep)
        except TopicFullError:
            self.refused += 1
            assert self.keep.when_full == "wait"
            assert max(len(self.unread(group)) for group in self.live) + n > self.keep.entries
            ids = []
        self.look(ids)
        self.appended = self.appended or bool(ids)
        if ids and not self.others:  # retention does not count other clients' appends
            assert len(self.there) <= self.bound()

    def bound(self) -> int:
        # Retention runs at every second push at the latest, so entries that were pending at the last one count as well.
        self.held.append(sum(len(self.pending[group]) for group in self.live))
        slack = max(1, self.keep.entries // 16) + 4096 // SIZE
        batch = BATCH if self.keep.when_full == "wait" else 0  # then retention runs before the append
        return self.keep.entries + batch + 2 * slack + 2 * max(self.held)

    def foreign(self, n: int) -> None:
        self.others = True
        self.look([self.client.xadd("topic", {"n": b"x"}) for _ in range(n)])

    def trim(self) -> None:
        trimmed, before = self.retention.trim("topic"), self.there
        self.look([])
        if trimmed is None:
            assert not self.appended, "Sluice's first append declares the limits"
            assert self.there == before
        elif self.keep.when_full == "spill":  # else all entries ahead of a new group wait
            assert len(self.there) <= self.bound()

    def look(self, new: list[Any]) -> None:
        """Find removed entries, and check that each may be removed."""
        self.pushed += map(as_id, new)
        there = {as_id(entry) for entry, _ in self.client.xrange("topic")}
        gone = (self.there | set(map(as_id, new))) - there
        self.there = there
        self.swept = self.swept or (bool(gone and there) and max(gone) > min(there))
        for group in self.live:
            assert not gone & self.pending[group], "pending entries of a live group are never removed"
            unread = {entry for entry in gone if entry > self.last[group]}
            assert not unread or self.keep.when_full == "spill", "entries wait for live groups"
            self.spilled[group] += len(unread)
        assert not gone & set(self.pushed[-self.keep.entries :]), "the newest entries are kept"

    def read(self, group: str, n: int) -> None:
        reply = self.client.xreadgroup(group, "consumer", {"topic": ">"}, count=n)
        ids = [as_id(entry) for _, entries in reply or () for entry, _ in entries]
        assert ids == sorted(self.unread(group))[:n]
        self.pending[group].update(ids)
        self.last[group] = max([self.last[group], *ids])

    def ack(self, group: str, which: list[int]) -> None:
        pending = sorted(self.pending[group])
        for entry in {pending[i] for i in which if i < len(pending)}:
            self.client.xack("topic", group, as_text(entry))
            self.pending[group].remove(entry)

    def finish(self, group: str) -> None:
        self.ack(group, list(range(len(self.pending[group]))))

    def new(self, group: str, at_the_end: bool) -> None:
        if group not in self.last:
            self.client.xgroup_create("topic", group, "$" if at_the_end else "0", mkstream=True)
            [found] = [g for g in self.client.xinfo_groups("topic") if g["name"].decode() == group]
            self.last[group] = as_id(found["last-delivered-id"])
            self.pending[group] = set()

    def forget(self, group: str) -> None:
        self.client.hset("sluice:groups:topic", group, -1)
        self.client.pexpire("sluice:groups:topic", 60_000)
        self.forgotten.add(group)

    def seen(self, group: str) -> None:
        self.client.hset("sluice:groups:topic", group, 1)
        self.client.pexpire("sluice:groups:topic", 60_000)
        self.forgotten.discard(group)

    def check_levels(self) -> None:
        level = self.levels.of("topic")
        if level is None:
            assert not self.last
            return
        assert level.length == len(self.there)
        assert (level.first_id, level.last_id) == (
            (as_text(min(self.there)), as_text(max(self.there))) if self.there else (None, None)
        )
        for group in level.groups:
            assert group.pending == len(self.pending[group.name])
            assert group.lag in (len(self.unread(group.name)), None)
            if not (
                self.deleted or self.forgotten or self.swept or self.others
            ):  # else the next sample may be too far away to count from
                assert group.lag is not None
            assert group.spilled == self.spilled[group.name]
            now = level.age * 1000 + int(level.last_id.partition("-")[0]) if level.last_id else 0
            oldest = min(self.unread(group.name), default=None)
            assert group.behind * 1000 == pytest.approx(now - oldest[0] if oldest else 0)
            assert group.is_forgotten == (group.name in self.forgotten)


def do_all(world: World, operations: list[tuple[Any, ...]]) -> None:
    for each in [("new", "a", False), *operations]:
        world.do(*each)
        world.check_levels()


@pytest.mark.usefixtures("every_way_to_append")
@given(keep=keeps, operations=operations())
def test_topic_stays_bounded_and_losses_of_live_groups_are_counted(
    fresh_client: Fresh, keep: Keep, operations: list[tuple[Any, ...]]
) -> None:
    do_all(World(fresh_client(), keep), operations)


@given(keep=keeps, operations=operations(foreign))
@example(keep=Keep(1), operations=[("foreign", 4)] * 5 + [("trim",), ("push", 1), ("trim",)])
def test_entries_of_other_clients_are_kept_and_counted_alike(
    fresh_client: Fresh, keep: Keep, operations: list[tuple[Any, ...]]
) -> None:
    do_all(World(fresh_client(), keep), operations)


@given(keep=keeps, operations=operations(deletion))
def test_lag_is_exact_or_unknown_after_another_client_deleted_entries(
    fresh_client: Fresh, keep: Keep, operations: list[tuple[Any, ...]]
) -> None:
    do_all(World(fresh_client(), keep), operations)


def test_lag_is_known_again_behind_the_next_sample_after_a_deletion(
    client: redis.Redis,
) -> None:
    world = World(client, Keep(30))
    world.do("new", "a", False)
    for _ in range(6):
        for each in (("push", 12), ("read", "a", 12), ("finish", "a")):
            world.do(*each)
    assert len(world.there) < 6 * 12
    world.do("delete", 5)
    for _ in range(2):
        world.do("push", 12)
        world.check_levels()
    level = world.levels.of("topic")
    assert level is not None
    assert level.groups[0].lag == 24


@given(
    sizes=st.lists(st.integers(1, 40_000) | st.integers(20_000, 40_000), min_size=15, max_size=40),
    limit=st.integers(1_000, 200_000),
    beside=st.sampled_from(["", "1h, "]),
    reads=st.booleans(),
)
def test_topic_keeps_its_newest_bytes_and_little_more(
    fresh_client: Fresh, sizes: list[int], limit: int, beside: str, reads: bool
) -> None:
    client = fresh_client()
    reservoir = Reservoir(client)
    at_work(client, "group")
    for size in sizes:
        reservoir.push("topic", {"b": b"x" * size}, keep=f"{beside}{limit}B")
        if reads:
            client.xreadgroup("group", "c", {"topic": ">"}, noack=True)

    def held() -> list[int]:
        return [len(entry["b"]) for entry in reservoir.peek("topic", 100)]

    # One sample is taken per 64 KB; up to a frame or a node more stays.
    most = limit + 65_536 + 40_000 + 4_096
    assert sum(held()) <= most + limit // 16 + 40_000  # an append trims once per sixteenth of the limit
    Retention(client).trim("topic")
    left = held()
    assert left == sizes[len(sizes) - len(left) :]
    assert sum(left) <= most
    assert len(left) == len(sizes) or sum(left) + sizes[-len(left) - 1] > limit
    [group] = reservoir.levels()[0].groups
    assert group.spilled == (0 if reads else len(sizes) - len(left))


@pytest.mark.parametrize("when_full", ["spill", "wait"])
def test_trim_removes_old_entries_except_those_that_wait_for_a_reader(client: redis.Redis, when_full: WhenFull) -> None:
    at_work(client, "group", "holds")
    reservoir, retention = Reservoir(client), Retention(client)
    keep = Keep.of("1h", when_full)
    for n in range(6):
        client.xadd("topic", {"n": n, "big": b"x" * 5_000}, id=f"{n + 1}-0")
    client.xreadgroup("group", "c", {"topic": ">"}, count=4, noack=True)
    client.xreadgroup("holds", "c", {"topic": ">"}, noack=False)
    for n in (1, 3, 5):  # 0, 2 and 4 stay pending
        client.xack("topic", "holds", f"{n + 1}-0")
    reservoir.push("topic", {"n": 6}, keep=keep)
    retention.trim("topic")
    left = [entry.id for entry in reservoir.peek("topic", 10)]
    unread = [] if when_full == "spill" else ["6-0"]
    assert left[:-1] == ["1-0", "3-0", "5-0", *unread]
    levels = {group.name: group for group in reservoir.levels()[0].groups}
    assert (levels["group"].spilled, levels["holds"].spilled) == (0 if unread else 1, 0)
    assert (levels["group"].lag, levels["holds"].lag) == (3 if unread else 2, 1)


def test_group_without_readers_is_forgotten_until_it_reads_again(client: redis.Redis) -> None:
    at_work(client, "group")
    reservoir, retention = Reservoir(client), Retention(client)
    hour = 3_600_000
    assert retention.forget("topic", after_ms=hour) == []  # seen for the first time: its time starts now
    now = int(time.time() * 1000)
    assert retention.forget("topic", after_ms=hour, now_ms=now + hour // 2) == []
    assert retention.forget("topic", after_ms=hour, now_ms=now + 2 * hour) == ["group"]
    [group] = reservoir.levels()[0].groups
    assert group.is_forgotten
    client.xreadgroup("group", "foreign", {"topic": ">"})
    assert retention.forget("topic", after_ms=hour) == []
    assert not reservoir.levels()[0].groups[0].is_forgotten


def test_consumer_marks_its_group_as_alive(client: redis.Redis) -> None:
    push_all(client, "topic", range(1))
    client.hset("sluice:groups:topic", "group", -1)
    client.pexpire("sluice:groups:topic", 60_000)
    Consumer(client, "topic", "group").step(1)
    assert not Reservoir(client).levels()[0].groups[0].is_forgotten
    assert client.pttl("sluice:groups:topic") > 0


def test_outlets_and_inlets_must_declare_the_same_for_a_topic(client: redis.Redis) -> None:
    retention = Retention(client)
    retention.declare("topic", Keep.of(10), group="movers")
    with pytest.raises(SettingsError, match=r"got '1h' from 'quotes:1' and '10' from the outlet with group 'movers'"):
        retention.declare("topic", Keep.of("1h"), inlet="quotes:1")
    retention.declare("topic", Keep.of(10), inlet="quotes:1")
    with pytest.raises(SettingsError, match=r"got '1h' from the outlet with group 'movers' and '10' from 'quotes:1'"):
        retention.declare("topic", Keep.of("1h"), group="movers")


def test_a_trim_deletes_declarations_of_outlets_that_ended(client: redis.Redis) -> None:
    retention, state = Retention(client), topic_keys("topic").state
    for group in ("ended", "running"):
        retention.declare("topic", Keep.of(10), group=group)
    retention.declare("topic", Keep.of(10), inlet="quotes:1")
    long_ago = int(time.time() * 1000) - LATELY_MS - 1
    client.hset(state, mapping={"outlet:ended": f"{long_ago} x", "inlet:quotes:1": f"{long_ago} x"})
    retention.trim("topic")
    assert {name for name in client.hkeys(state) if b":" in name} == {b"outlet:running", b"inlet:quotes:1"}


def test_contradictory_keep_is_refused_until_the_other_inlet_is_long_unseen(
    client: redis.Redis,
) -> None:
    retention = Retention(client)
    retention.declare("topic", Keep.of("4000, 1h"), inlet="quotes:1")
    retention.declare("topic", Keep.of("60min, 4000"), inlet="seconds:1")  # the same limits in other words
    retention.declare("topic", Keep.of("4000, 1h"), inlet="quotes:1")
    with pytest.raises(
        SettingsError, match=r"topic 'topic'.*got '10' from 'new:1' and '4000, 1h' from '(quotes|seconds):1'"
    ):
        retention.declare("topic", Keep.of(10), inlet="new:1")
    with pytest.raises(SettingsError, match="wait"):
        retention.declare("topic", Keep.of("4000, 1h", "wait"), inlet="quotes:1")
    long_ago = int(time.time() * 1000) - LATELY_MS - 1
    for name in (b"inlet:quotes:1", b"inlet:seconds:1"):
        client.hset("sluice:topic:topic", name, f"{long_ago} {Keep.of('4000, 1h').packed()}")
        client.pexpire("sluice:topic:topic", 60_000)
    retention.declare("topic", Keep.of(10), inlet="new:1")
    assert client.pttl("sluice:topic:topic") > 0


def test_dead_letters_dropped_by_the_limit_are_counted(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_entries, "KEEP_DEAD_LETTERS", DeadLetterLimits(3))
    reservoir = Reservoir(client)
    for _ in range(8):
        reservoir.push("topic", {"n": b"x" * 5_000})
    run(lambda source: source.pluck("missing").sink(print), client)
    [group] = reservoir.levels()[0].groups
    assert group.dead + group.dead_dropped == 8
    assert group.dead_dropped > 0


def test_keys_beside_a_topic_have_a_ttl_after_a_trim(client: redis.Redis) -> None:
    at_work(client, "group")
    reservoir = Reservoir(client)
    for _ in range(10):
        reservoir.push("topic", {"n": b"x" * 5_000}, keep=1)
    Retention(client).trim("topic")
    assert reservoir.levels()[0].groups[0].spilled > 0
    beside = [key for key in client.keys("*") if key != b"topic"]
    assert {key.split(b":")[1] for key in beside} == {b"groups", b"index", b"push", b"spilled", b"tally", b"topic"}
    assert all(client.pttl(key) > 0 for key in beside)
