"""What one read returns: bounded, whatever is there, and of all topics alike."""

from collections import Counter
from typing import Any

import pytest
import redis

from tasks.consumer import Consumer
from tests.streams import push_all


@pytest.mark.parametrize("until", [None, "now"])
def test_a_read_of_several_topics_returns_no_more_than_of_one(client: redis.Redis, until: str | None) -> None:
    topics = ["one", "two", "three"]
    for topic in topics:
        push_all(client, topic, range(20))
    reader = Consumer(client, topics, "group", until=until, max_entries=9)
    read: list[Any] = reader.step(0)
    while step := reader.step(0):
        assert len(step) <= 9
        read += step
    assert Counter(entry.topic for entry in read) == dict.fromkeys(topics, 20)


def test_every_topic_is_read_however_many_there_are(client: redis.Redis) -> None:
    topics = [f"topic{n}" for n in range(5)]
    for topic in topics:
        push_all(client, topic, range(2))
    reader = Consumer(client, topics, "group", max_entries=2)
    assert [[entry.topic for entry in reader.step(0)] for _ in range(3)] == [topics, topics, []]
