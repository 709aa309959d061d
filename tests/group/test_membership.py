"""Scripts of membership: they refuse operations whose conditions no longer hold when they run."""

import time
from typing import Any

import pytest
import redis

from tasks import LeaseLostError
from tasks.group.dead_letter_limits import DeadLetterLimits
from tests.support.streams import consumer, push_all, read_all
from tests.support.waiting import wait_until


def holders(client: redis.Redis) -> dict[str, str]:
    found = client.xpending_range("topic", "group", "-", "+", 100)
    return {one["message_id"].decode(): one["consumer"].decode() for one in found}


def test_claim_takes_nothing_from_a_consumer_that_has_just_renewed_its_lease(client: redis.Redis) -> None:
    push_all(client, "topic", range(3))
    holder, other = consumer(client), consumer(client)
    read_all(holder)
    before = holders(client)
    assert other.membership.claim("topic", holder.membership.name) == []
    assert holders(client) == before


def test_consumer_taken_for_dead_can_neither_claim_nor_give_back_nor_count(client: redis.Redis) -> None:
    ids = push_all(client, "topic", range(4))
    zombie, victim = consumer(client, max_entries=2), consumer(client, max_entries=2)
    zombie.step(0)
    victim._settled = True
    victim.step(0)
    client.delete(zombie.membership.fence.lease)
    heir = consumer(client)
    heir.membership.claim("topic", zombie.membership.name)
    client.delete(victim.membership.fence.lease)
    before = holders(client)
    assert sorted(before) == ids
    for act in (
        lambda: zombie.membership.claim("topic", victim.membership.name),
        lambda: zombie.membership.hand_back("topic"),
        lambda: zombie.membership.count("topic", {ids[0]: 7}),
        lambda: zombie.membership.dead_letter("topic", ids[0], {}, keep=DeadLetterLimits(9)),
    ):
        with pytest.raises(LeaseLostError):
            act()
    assert holders(client) == before
    assert not client.exists("topic:dead:group")


def test_living_consumer_without_entries_is_not_removed(client: redis.Redis) -> None:
    push_all(client, "topic", range(1))
    living, other = consumer(client), consumer(client)
    [entry] = read_all(living)
    living.ack("topic", [entry.id])
    other.membership.renew()
    assert not other.membership.retire("topic", living.membership.name)
    assert [one["name"].decode() for one in client.xinfo_consumers("topic", "group")] == [living.membership.name]


@pytest.mark.parametrize("ttl", [None, 86_400_000])
@pytest.mark.parametrize("is_joined", [False, True])
def test_lease_with_a_foreign_ttl_expires_without_renewal(
    client: Any, caplog: pytest.LogCaptureFixture, ttl: int | None, is_joined: bool
) -> None:
    """Another client removed its TTL, or set it to a day. A living consumer renews the lease; a dead one expires all the same."""
    successor = consumer(client, lease_ttl=0.2)
    if is_joined:
        successor.step(0)
    ids = push_all(client, "topic", range(3))
    victim = consumer(client, lease_ttl=0.4)
    while not victim.held:
        victim.step(0)
    lease = victim.membership.fence.lease
    for set_back in range(3):
        client.persist(lease) if ttl is None else client.pexpire(lease, ttl)
        if set_back < 2:  # it lives yet
            successor.membership.peers("topic")
            victim.membership.renew()
    seen: list[Any] = []

    def step() -> bool:
        successor._next_claim = 0.0
        seen.extend(successor.step(0))
        return len(seen) == 3

    wait_until(step, "the entries of the dead one")
    assert [(entry.id, entry.deliveries) for entry in seen] == [(id_, 2) for id_ in ids]
    assert f"consumer {victim.membership.name!r} counts as dead: another client left its lease " in caplog.text
    with pytest.raises(LeaseLostError):
        victim.membership.renew()


def test_living_consumer_of_0_1_0_keeps_its_longer_lease(client: redis.Redis) -> None:
    """Its token does not contain the TTL of its lease."""
    push_all(client, "topic", range(3))
    older = consumer(client, lease_ttl=60)
    older.membership._token, _, _ = older.membership._token.partition(":")
    while not older.held:
        older.step(0)
    other = consumer(client, lease_ttl=0.01)
    other.step(0)
    end = time.monotonic() + 0.1  # ten leases of the other's
    while time.monotonic() < end:
        other.membership.peers("topic")
        assert client.exists(older.membership.fence.lease)
        older.membership.renew()


def test_successor_logs_once_that_it_waits_for_a_longer_lease(
    client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    push_all(client, "topic", range(3))
    victim = consumer(client, lease_ttl=3600)
    while not victim.held:
        victim.step(0)
    successor = consumer(client, lease_ttl=0.05)
    waits = f"for consumer {victim.membership.name!r} to renew its lease: if it is dead, its 3 pending entries of topic 'topic'"
    wait_until(lambda: successor.step(0) or waits in caplog.text, "a word about it")
    for _ in range(5):
        assert successor.step(0) == []
    assert caplog.text.count("to renew its lease") == 1
    assert "group 'group': waiting up to 3" in caplog.text


@pytest.mark.parametrize("ahead", [3600.0, -3600.0])
def test_lease_does_not_depend_on_wall_clocks(
    real_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    [id_] = push_all(real_redis, "topic", range(1))
    holder, other = consumer(real_redis, lease_ttl=60.0), consumer(real_redis, lease_ttl=60.0)
    read_all(holder)
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + ahead)
    assert holder.membership.renew()
    assert 0 < real_redis.pttl(holder.membership.fence.lease) <= 60_000
    assert other.membership.claim("topic", holder.membership.name) == []
    assert holder.ack("topic", [id_])
    assert not real_redis.exists("topic:dead:group")
