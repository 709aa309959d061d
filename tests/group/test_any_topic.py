"""Whatever a topic is called: push, consume, fail, replay, rewind, trim, levels and removal work, and on that topic alone."""

from collections.abc import Callable
from typing import Any

import redis
from hypothesis import example, given
from hypothesis import strategies as st

from tasks import Reservoir
from tasks.group.dead_letters import DeadLetters
from tasks.group.removal import drop_group, drop_topic, has_keys, kept_by_group
from tasks.group.rewind import rewind
from tasks.reservoir.keep import Keep
from tasks.reservoir.keys import dead_topic, retry_topic, topic_keys
from tasks.reservoir.retention import Retention
from tests.support.streams import push_all, run
from tests.support.topics import topic_names

Fresh = Callable[[], redis.Redis]

KEEP = Keep.of("1000")
groups = st.sampled_from(["g", "dead", "retry", "a"])
several = st.lists(topic_names, min_size=3, max_size=4, unique=True)


def everything(client: Any) -> dict[bytes, bytes]:
    """Return each key with its bytes, but not the records of appends, which name no topic and lapse within minutes."""
    keys = [key for key in client.scan_iter(count=1000) if not key.startswith((b"sluice:push:", b"sluice:replay:"))]
    return {key: client.dump(key) for key in keys}


class Life:
    """One group on topics of any names; the model counts what each topic, its dead letters and the results should hold."""

    def __init__(self, client: redis.Redis, topics: list[str], into: str, group: str) -> None:
        self.client, self.topics, self.into, self.group = client, topics, into, group
        self.reservoir = Reservoir(client)
        self.seen: list[tuple[str, str]] = []
        self.bad = {1}

    def consume(self) -> list[tuple[str, str]]:
        """Run the outlet on all there is, and return the entries that it has processed, per topic in order."""
        before = len(self.seen)

        def process(entry: Any) -> dict[str, Any]:
            if entry["n"] in self.bad:
                raise ValueError
            self.seen.append((entry.topic, entry.id))
            return {"n": entry["n"], "of": entry.topic}

        def build(source: Any) -> Any:
            return source.map(process).to_redis(self.into, client=self.client)

        run(build, self.client, list(self.topics), group=self.group)
        return sorted(self.seen[before:])

    def letters(self) -> dict[str, int]:
        return {topic: self.client.xlen(dead_topic(topic, self.group)) for topic in self.topics}  # type: ignore[misc]

    def results(self) -> list[tuple[str, int]]:
        return sorted((one["of"], one["n"]) for one in self.reservoir.peek(self.into, 1000))  # type: ignore[index]


@given(several, groups)
@example(["*", "a", "a:1", "a:{user}"], "g")
@example(["[0-9]*", "?", "orders:dead:two words", "\\"], "dead")
@example(["dead", "retry", ":dead:a", "a:dead"], "dead")
@example(["行" * 66, "行" * 65 + "情", "\N{GRINNING FACE}" * 50], "a")
def test_a_life_of_topics_of_any_names(fresh_client: Fresh, names: list[str], group: str) -> None:
    into, *topics = names
    client = fresh_client()
    life = Life(client, topics, into, group)
    ids = {topic: push_all(client, topic, range(3)) for topic in topics}
    good = sorted((topic, ids[topic][n]) for topic in topics for n in (0, 2))
    assert life.consume() == good
    assert life.letters() == dict.fromkeys(topics, 1)
    assert life.results() == sorted((topic, n) for topic in topics for n in (0, 2))
    found = {level.topic: level for level in life.reservoir.levels()}
    assert found.keys() == set(names)
    for topic in topics:
        assert [(g.name, g.lag, g.dead) for g in found[topic].groups] == [(group, 0, 1)]
    assert set(life.reservoir.topics()) == {*names, *(dead_topic(topic, group) for topic in topics)}

    life.bad = set()
    for topic in topics:
        letters = DeadLetters(client, topic, group)
        [letter] = letters.choose()
        assert (letter.entry_id, [done for _, done in letters.replay([letter], into_windows=True)]) == (
            ids[topic][1],
            ["replayed"],
        )
        assert client.xlen(retry_topic(topic, group)) == 1
    assert life.consume() == sorted((topic, ids[topic][1]) for topic in topics)
    assert life.results() == sorted((topic, n) for topic in topics for n in range(3))

    rewind(client, topics[0], group, "beginning")
    assert life.consume() == [(topics[0], id_) for id_ in ids[topics[0]]]
    assert life.letters() == dict.fromkeys(topics, 0)


@given(several, groups)
@example(["*", "x\\", "x*", "x"], "g")
@example(["a", "a:dead:two words", "a:dead", "a:retry:b:c"], "dead")
def test_removal_on_any_names_leaves_all_others(fresh_client: Fresh, names: list[str], group: str) -> None:
    into, *topics = names
    client = fresh_client()
    for topic in topics:
        push_all(client, topic, range(3))
        Retention(client).declare(topic, KEEP, inlet="inlet:0123456789abcdef")
        Retention(client).trim(topic)
    for each in topics[1:]:
        Life(client, [each], into, group).consume()
    before = everything(client)
    Life(client, topics[:1], into, group).consume()
    assert kept_by_group(client, topics[0], group).letters == 1
    drop_group(client, topics[0], group)
    assert not client.exists(dead_topic(topics[0], group))
    drop_topic(client, topics[0])
    assert not has_keys(client, topics[0])
    after = everything(client)
    own = {key for key in before if key not in after}
    assert own <= {key for key in before if key.decode().endswith(topics[0])}
    results = {key for key in after if key.decode().endswith(into)}  # the outlet's, which stay
    assert {key: data for key, data in after.items() if key not in results} == {
        key: data for key, data in before.items() if key not in own | results
    }


def test_spilled_entries_of_a_foreign_group_are_no_dropped_letters(client: redis.Redis) -> None:
    """The foreign group is named like the field of the dropped letters of the group `movers`."""
    for group in ("dead:movers", "movers"):
        client.xgroup_create("jobs", group, "0", mkstream=True)
    client.hset(topic_keys("jobs").spilled, "dead:movers", "7")
    Reservoir(client).push_many("jobs", [{"n": n} for n in range(500)], keep=100)

    def counts() -> dict[str, tuple[int, int]]:
        [level] = Reservoir(client).levels()
        return {group.name: (group.spilled > 0, group.dead_dropped) for group in level.groups}

    assert counts() == {"dead:movers": (True, 0), "movers": (True, 7)}
    drop_group(client, "jobs", "dead:movers")
    assert counts() == {"movers": (True, 7)}


def test_group_of_another_program_has_no_streams_of_its_own(client: redis.Redis) -> None:
    """Its name can have a ':', so that what would be its dead letters is another topic."""
    push_all(client, "jobs", range(2))
    push_all(client, "jobs:dead:of:mine", range(3))
    push_all(client, "jobs:retry:of:mine", range(3))
    client.xgroup_create("jobs", "of:mine", "0")
    kept = kept_by_group(client, "jobs", "of:mine")
    assert (kept.letters, kept.retries) == (0, 0)
    assert [(g.name, g.dead) for level in Reservoir(client).levels() for g in level.groups] == [("of:mine", 0)]
    drop_group(client, "jobs", "of:mine")
    assert Reservoir(client).topics() == ["jobs", "jobs:dead:of:mine", "jobs:retry:of:mine"]
    drop_topic(client, "jobs")
    assert Reservoir(client).topics() == ["jobs:dead:of:mine", "jobs:retry:of:mine"]
