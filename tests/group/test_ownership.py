"""Ownership: of the consumers that want a partition, one at a time reads it, and its entries stay in order over all of them."""

from collections.abc import Callable
from typing import Any

import redis
from hypothesis import example, given
from hypothesis import strategies as st

from tasks import LeaseLostError
from tasks.group.consumer import Consumer
from tasks.group.members import Members, quota
from tasks.group.ownership import Ownership
from tests.support.streams import pending

Fresh = Callable[[], redis.Redis]
TOPIC = "topic:{0}"


class Contender:
    """One consumer that wants a partition. It renews its lease only when it is new, so that a suspended one acts without a look."""

    def __init__(self, client: redis.Redis, processed: list[int]) -> None:
        self.client = client
        self.processed = processed
        self.returned: list[Any] = []
        self.is_owner = False
        self.is_lost = False
        self.consumer = Consumer(client, TOPIC, "group", partition=0, lease_ttl=60, max_entries=3)
        self.consumer.renew()
        self.ownership = Ownership(client, self.consumer.membership, self.consumer.scope, cure="wait")

    def step(self, *, ahead: bool = False) -> int:
        """Read if this consumer owns the partition; return the number of entries."""
        return self._or_lost(lambda: self._step(ahead=ahead)) or 0

    def _step(self, *, ahead: bool) -> int:
        self.is_owner = self.is_owner or self.ownership.acquire([TOPIC])
        if not self.is_owner:
            return 0
        found = self.consumer.step(1, ahead=ahead)
        self.returned += found
        return len(found)

    def finish(self) -> None:
        """Acknowledge the oldest entry; it counts as processed if it was still pending here."""
        if self.returned:
            entry = self.returned.pop(0)
            if self._or_lost(lambda: self.consumer.ack(TOPIC, [entry.id])):
                self.processed.append(entry["n"])

    def suspend(self) -> None:
        """Let its lease expire, as if the process were suspended for longer; a tombstone of its successor stays."""
        fence = self.consumer.membership.fence
        if self.client.get(fence.lease) == fence.token.encode():
            self.client.delete(fence.lease)

    def leave(self) -> None:
        """Give everything back."""
        self._or_lost(self.consumer.leave)
        self.is_lost = True

    def _or_lost(self, act: Callable[[], int]) -> int:
        if self.is_lost:
            return 0
        try:
            return act()
        except LeaseLostError:
            self.is_lost = True
            return 0


def push(client: redis.Redis, *numbers: int) -> None:
    for n in numbers:
        client.xadd(TOPIC, {"n": n})


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["push", "step", "step", "ahead", "finish", "finish", "suspend", "leave", "renew"]),
        st.integers(0, 2),
    ),
    max_size=40,
)


# A suspended owner reads after its successor has begun; without a fence in the read, that takes entries which the successor gets last.
LATE = [("push", 0), ("step", 0), ("suspend", 0), ("step", 1), ("push", 0), ("step", 0), ("push", 0), ("step", 1)]


@example([*LATE, *[("finish", 1)] * 4])
@example(
    [("push", 0), ("ahead", 0), ("suspend", 0), ("push", 0), ("step", 1), ("ahead", 0), ("step", 1), ("finish", 1)]
)
@given(ACTIONS)
def test_a_partition_is_processed_in_order_whoever_owns_it(fresh_client: Fresh, actions: list[tuple[str, int]]) -> None:
    client, processed, pushed = fresh_client(), [], 0
    here = [Contender(client, processed) for _ in range(3)]
    for act, which in actions:
        one = here[which]
        if act == "push":
            push(client, pushed, pushed + 1)
            pushed += 2
        elif act in ("step", "ahead"):
            one.step(ahead=act == "ahead")
        elif act == "renew" or one.is_lost:
            one.suspend()
            here[which] = Contender(client, processed)
        else:
            getattr(one, act)()
        assert processed == list(range(len(processed)))
    for one in here:
        one.suspend()
    last = Contender(client, processed)
    while last.step() or last.returned:
        last.finish()
    assert processed == list(range(pushed))
    assert pending(client, topic=TOPIC) == []


def test_two_owners_never_read_at_the_same_time(client: redis.Redis) -> None:
    processed: list[int] = []
    push(client, *range(9))
    first, second = Contender(client, processed), Contender(client, processed)
    assert first.step() == 3
    assert second.step() == 0
    first.leave()
    assert second.step() == 3
    assert [entry["n"] for entry in second.returned] == [0, 1, 2]


def test_an_owner_excludes_others_before_its_group_exists(client: redis.Redis) -> None:
    first, second = Contender(client, []), Contender(client, [])
    assert first.ownership.acquire([TOPIC])
    assert not second.ownership.acquire([TOPIC])


@given(partitions=st.integers(1, 64), members=st.integers(1, 20))
def test_shares_are_fair_and_cover_all_partitions(partitions: int, members: int) -> None:
    shares = [quota(partitions, members, rank) for rank in range(members)]
    assert sum(shares) == partitions
    assert max(shares) - min(shares) <= 1


def test_members_count_until_they_leave_or_do_not_meet(client: redis.Redis) -> None:
    one, two = (Members(client, "group", 5, name=name, ttl=60) for name in "ab")
    assert one.meet().quota == 5
    assert (two.meet().quota, one.meet().quota) == (2, 3)
    two.leave()
    assert one.meet().quota == 5
    brief = Members(client, "group", 5, name="c", ttl=0.001)
    brief.meet()
    while brief_counts := one.meet().quota < 5:
        assert brief_counts
    assert one.meet().quota == 5
