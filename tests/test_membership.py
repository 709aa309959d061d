"""What the scripts refuse, whatever Python believed when it called them."""

import pytest
import redis

from tasks import LeaseLostError
from tasks.letterbounds import LetterBounds
from tests.streams import consumer, push_all, read_all


def holders(client: redis.Redis) -> dict[str, str]:
    found = client.xpending_range("topic", "group", "-", "+", 100)
    return {one["message_id"].decode(): one["consumer"].decode() for one in found}


def test_nothing_is_taken_from_one_that_renewed_its_lease_after_it_was_looked_at(client: redis.Redis) -> None:
    push_all(client, "topic", range(3))
    holder, other = consumer(client), consumer(client)
    read_all(holder)
    before = holders(client)
    assert other.membership.claim("topic", holder.membership.name) == []
    assert holders(client) == before


def test_who_was_taken_for_dead_can_neither_take_nor_give_nor_count(client: redis.Redis) -> None:
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
        lambda: zombie.membership.dead_letter("topic", ids[0], {}, keep=LetterBounds(9)),
    ):
        with pytest.raises(LeaseLostError):
            act()
    assert holders(client) == before
    assert not client.exists("topic:dead:group")


def test_who_lives_and_has_nothing_is_not_cleared_away(client: redis.Redis) -> None:
    push_all(client, "topic", range(1))
    living, other = consumer(client), consumer(client)
    [entry] = read_all(living)
    living.ack("topic", [entry.id])
    other.membership.renew()
    assert not other.membership.retire("topic", living.membership.name)
    assert [one["name"].decode() for one in client.xinfo_consumers("topic", "group")] == [living.membership.name]
