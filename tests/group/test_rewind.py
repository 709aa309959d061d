"""Rewinds: the group reads exactly the entries after the new position, and no living consumer is surprised."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st

from tasks import Reservoir, SettingsError
from tasks.group import rewind as module
from tasks.group.consumer import Consumer
from tasks.group.rewind import rewind
from tasks.reservoir.keys import result_record
from tests.support.streams import pending, push_all, run

Fresh = Callable[[], redis.Redis]


@pytest.fixture
def small_pages() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_AT_ONCE", 3)
        yield


def read_all(client: redis.Redis, *, acknowledge: bool = True) -> list[int]:
    """Read with a consumer that leaves afterwards; return the values in order."""
    consumer = Consumer(client, "topic", "group")
    values: list[Any] = []
    while entries := consumer.step(1):
        values += [entry["n"] for entry in entries]
        if acknowledge:
            consumer.ack("topic", [entry.id for entry in entries])
    consumer.leave()
    return values


def pushed_and_read(client: Any, n: int, read: int) -> list[str]:
    """Push `n` entries, let a consumer read the first `read` of them and die; return their ids."""
    ids = push_all(client, "topic", range(n))
    client.xgroup_create("topic", "group", "0")
    if read:
        client.xreadgroup("group", "dead", {"topic": ">"}, count=read)
    return ids


@given(n=st.integers(1, 12), read=st.integers(0, 12), acked=st.integers(0, 12), to=st.integers(-1, 12))
@pytest.mark.usefixtures("small_pages")
def test_rewound_group_reads_every_entry_from_there_on_once(
    fresh_client: Fresh, n: int, read: int, acked: int, to: int
) -> None:
    client: Any = fresh_client()
    ids = pushed_and_read(client, n, read)
    for entry_id in ids[: min(acked, read)]:
        client.xack("topic", "group", entry_id)
    place = "beginning" if to < 0 else ids[to] if to < n else "end"
    rewound = rewind(client, "topic", "group", place)
    assert rewound.acknowledged == max(0, min(read, n) - acked)
    assert not pending(client)
    assert read_all(client) == list(range(max(to, 0), n))


def test_rewind_to_a_time_starts_at_the_first_entry_not_before_it(client: redis.Redis) -> None:
    for n in range(3):
        client.xadd("topic", {"n": n}, id=f"{1_767_225_600_000 + n}-0")  # 2026-01-01T00:00:00Z
    client.xgroup_create("topic", "group", "$")
    rewind(client, "topic", "group", "2026-01-01T00:00:00.001+00:00")
    assert read_all(client) == [1, 2]


def test_results_are_appended_again_after_a_rewind(client: redis.Redis) -> None:
    push_all(client, "topic", range(3))
    for _ in range(2):
        run(lambda source: source.pluck("n").map(lambda n: {"n": n}).to_redis("results", client=None), client)
        rewind(client, "topic", "group", "beginning")
    assert [entry["n"] for entry in Reservoir(client).peek("results", 9)] == [0, 1, 2, 0, 1, 2]


def test_rewind_is_refused_while_a_consumer_is_alive_and_changes_nothing(client: redis.Redis) -> None:
    push_all(client, "topic", range(3))
    consumer = Consumer(client, "topic", "group", name="alive")
    while not consumer.held:
        consumer.step(1)
    before = pending(client)
    with pytest.raises(
        SettingsError, match=r"group 'group' on topic 'topic'.*got alive.*stop its outlet, or force the rewind"
    ):
        rewind(client, "topic", "group", "beginning")
    assert pending(client) == before
    consumer.leave()
    assert rewind(client, "topic", "group", "end").alive == ()
    assert read_all(client) == []


def test_forced_rewind_names_living_consumers_and_voids_their_acknowledgements(client: redis.Redis) -> None:
    ids = push_all(client, "topic", range(3))
    consumer = Consumer(client, "topic", "group", name="alive")
    while consumer.held < 3:
        consumer.step(1)
    assert rewind(client, "topic", "group", "beginning", force=True).alive == ("alive",)
    assert consumer.ack("topic", ids[:1]) == 0
    assert [entry["n"] for entry in consumer.step(1)] == [0, 1, 2]  # again, from where it was set
    consumer.leave()


@pytest.mark.parametrize(("topic", "group"), [("topic", "other"), ("none", "group")])
def test_rewind_of_an_unknown_group_names_the_existing_ones(client: redis.Redis, topic: str, group: str) -> None:
    push_all(client, "topic", range(1))
    client.xgroup_create("topic", "group", "0")
    with pytest.raises(
        SettingsError, match=rf"expected a group of topic '{topic}' \((group|it has none)\), got '{group}'"
    ):
        rewind(client, topic, group, "end")


@contextmanager
def cut_after(client: redis.Redis, commands: int) -> Iterator[None]:
    """Let a client send this many commands and then raise, like a process that was killed there."""
    left, send = iter(range(commands)), client.execute_command

    def sent(*args: Any, **options: Any) -> Any:
        if next(left, None) is None:
            raise redis.ConnectionError
        return send(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "execute_command", sent)
        yield


@given(
    n=st.integers(1, 12),
    read=st.integers(0, 12),
    acked=st.integers(0, 12),
    to=st.integers(-1, 12),
    commands=st.integers(0, 24),
    again=st.booleans(),
)
@example(n=12, read=12, acked=0, to=-1, commands=10, again=False)  # in the midst of its pages
@pytest.mark.usefixtures("small_pages")
def test_interrupted_rewind_loses_nothing_and_can_be_repeated(
    fresh_client: Fresh, *, n: int, read: int, acked: int, to: int, commands: int, again: bool
) -> None:
    client: Any = fresh_client()
    ids = pushed_and_read(client, n, read)
    acknowledged = range(min(acked, read, n))
    for entry in acknowledged:
        client.xack("topic", "group", ids[entry])
    for entry_id in ids:
        client.hset(result_record("group", "topic", entry_id), "a result", "=1-0")
        client.pexpire(result_record("group", "topic", entry_id), 60_000)
    place = "beginning" if to < 0 else ids[to] if to < n else "end"
    with cut_after(client, commands), suppress(redis.ConnectionError):
        rewind(client, "topic", "group", place)
    behind = range(max(to, 0), n)
    rewound = set(ids[:read]) - {ids[entry] for entry in acknowledged} - set(pending(client))
    assert not any(client.exists(result_record("group", "topic", entry_id)) for entry_id in rewound)
    if not again:
        assert set(behind) - set(acknowledged) <= set(read_all(client))
        return
    rewind(client, "topic", "group", place)
    assert not pending(client)
    assert not client.keys(result_record("group", "topic", "*"))
    assert read_all(client) == list(behind)


@pytest.mark.parametrize("to", ["2099-01-01T00:00", "9999999999999-0"])
def test_rewind_to_the_future_is_refused_with_last_entry_and_remedy(client: redis.Redis, to: str) -> None:
    ids = pushed_and_read(client, 3, 1)
    with pytest.raises(SettingsError, match=rf"whose last entry is {ids[-1]} \(.* UTC\), got '{to}'.*use 'end'"):
        rewind(client, "topic", "group", to)
    assert pending(client) == ids[:1]


def test_levels_and_log_show_a_group_that_is_ahead_of_its_topic(client: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Another client can set such a position. No other count includes the entries until then."""
    push_all(client, "topic", range(3))
    for group, position in [("group", "4070908800000-0"), ("other", "$"), ("third", "5-0")]:
        client.xgroup_create("topic", group, position)
    [level] = Reservoir(client).levels()
    assert {group.name: group.remark for group in level.groups} == {
        "group": " (ahead of its topic)",
        "other": "",
        "third": "",
    }
    for _ in range(2):
        consumer = Consumer(client, "topic", "group")
        consumer.step(1)
        consumer._next_claim = 0.0
        consumer.step(1)
        consumer.leave()
    warnings = [record.getMessage() for record in caplog.records if "is ahead of" in record.getMessage()]
    assert len(warnings) == 2, "once for each consumer"
    assert warnings[0].startswith(
        "group 'group' is ahead of topic 'topic': it continues after 4070908800000-0 (2099-01-01T00:00:00 UTC)"
    )
