"""What an outlet promises of order and filtering, against a plain list, on fakeredis and on a real Redis."""

from collections.abc import Callable
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from streamz import Stream

from tasks import Reservoir, SettingsError, has
from tasks.source import from_redis
from tests.streams import dead, pending, push_all, run

Fresh = Callable[[], redis.Redis]

values = st.one_of(st.integers(), st.booleans(), st.none(), st.text(max_size=10), st.floats(allow_nan=False))
# Any predicate on values is a set of those it is true of.
chosen = st.lists(values, max_size=30).flatmap(
    lambda pushed: st.tuples(
        st.just(pushed), st.sets(st.sampled_from(range(len(pushed)))) if pushed else st.just(set())
    )
)


@given(case=chosen)
def test_an_outlet_emits_exactly_the_filtered_entries_in_push_order(
    fresh_client: Fresh, case: tuple[list[Any], set[int]]
) -> None:
    pushed, wanted = case
    client = fresh_client()
    ids = push_all(client, "topic", pushed)
    true_of = {ids[i] for i in wanted}
    seen: list[Any] = []
    run(lambda source: source.filter(lambda entry: entry.id in true_of).pluck("n").sink(seen.append), client)
    assert seen == [pushed[i] for i in sorted(wanted)]
    assert pending(client) == []


@given(
    pushed=st.lists(
        st.dictionaries(st.sampled_from(["quotes", "seconds", "odd"]), st.integers(), min_size=1), max_size=30
    )
)
def test_kinds_of_entries_that_share_a_topic_are_told_apart_by_their_fields(
    fresh_client: Fresh, pushed: list[dict[str, int]]
) -> None:
    client = fresh_client()
    Reservoir(client).push_many("topic", pushed)
    quotes: list[Any] = []
    both: list[Any] = []

    def build(source: Stream) -> list[Stream]:
        return [
            source.filter(has("quotes")).map(dict).sink(quotes.append),
            source.filter(has("quotes", "seconds")).map(dict).sink(both.append),
        ]

    run(build, client)
    assert quotes == [fields for fields in pushed if "quotes" in fields]
    assert both == [fields for fields in pushed if {"quotes", "seconds"} <= set(fields)]


@given(pushed=st.lists(values, max_size=30))
def test_each_of_two_groups_sees_all_entries(fresh_client: Fresh, pushed: list[Any]) -> None:
    client = fresh_client()
    push_all(client, "topic", pushed)
    for group in ("one", "two"):
        seen: list[Any] = []
        run(lambda source, seen=seen: source.pluck("n").sink(seen.append), client, group=group)
        assert seen == pushed


@given(pushed=st.lists(st.tuples(st.sampled_from(["left", "right"]), values), max_size=40))
def test_each_of_two_topics_keeps_its_order_in_one_outlet(fresh_client: Fresh, pushed: list[tuple[str, Any]]) -> None:
    client = fresh_client()
    for topic, value in pushed:
        push_all(client, topic, [value])
    seen: list[tuple[str, Any]] = []
    run(lambda source: source.map(lambda e: (e.topic, e["n"])).sink(seen.append), client, ["left", "right"])
    for topic in ("left", "right"):
        assert [v for t, v in seen if t == topic] == [v for t, v in pushed if t == topic]


@given(
    pushed=st.lists(st.integers(0, 5), max_size=60),
    readers=st.integers(1, 3),
    max_entries=st.integers(1, 7),
    turns=st.lists(st.integers(0, 2), max_size=60),
)
def test_consumers_of_one_group_share_its_entries_and_each_sees_its_own_in_order(
    fresh_client: Fresh, pushed: list[int], readers: int, max_entries: int, turns: list[int]
) -> None:
    import asyncio

    from tests.streams import drain, here

    client = fresh_client()
    ids = push_all(client, "topic", pushed)
    seen: list[list[str]] = [[] for _ in range(readers)]

    async def main() -> None:
        sources = [here(client, max_entries=max_entries) for _ in range(readers)]
        kept = [source.map(lambda e: e.id).sink(own.append) for source, own in zip(sources, seen, strict=True)]
        for source in sources:
            source.open()
        for turn in turns:
            await sources[turn % readers].step()
        for source in sources:
            await drain(source)
            source.close()
        del kept

    asyncio.run(main())
    assert sorted(id_ for own in seen for id_ in own) == sorted(ids)
    for own in seen:
        assert own == [id_ for id_ in ids if id_ in set(own)]


@given(case=chosen)
def test_an_entry_on_which_the_pipeline_raises_becomes_a_dead_letter_and_stops_nothing(
    fresh_client: Fresh, case: tuple[list[Any], set[int]]
) -> None:
    pushed, bad = case
    client = fresh_client()
    ids = push_all(client, "topic", pushed)
    raises_on = {ids[i] for i in bad}

    def check(entry: Any) -> Any:
        if entry.id in raises_on:
            msg = "out of range"
            raise ValueError(msg)
        return entry["n"]

    seen: list[Any] = []
    run(lambda source: source.map(check).sink(seen.append), client)
    assert seen == [value for i, value in enumerate(pushed) if i not in bad]
    assert [(letter["dead:id"], letter["n"]) for letter in dead(client)] == [(ids[i], pushed[i]) for i in sorted(bad)]
    assert {letter["dead:node"] for letter in dead(client)} <= {"map(check)"}
    assert pending(client) == []


def test_an_entry_that_cannot_be_decoded_becomes_a_dead_letter_with_its_bytes_untouched(client: redis.Redis) -> None:
    bytes_ = b"\xff\xff\xff\xff no Arrow stream"
    client.xadd("topic", {"frame": bytes_})
    push_all(client, "topic", [1])
    seen: list[Any] = []
    run(lambda source: source.pluck("n").sink(seen.append), client)
    assert seen == [1]
    [(_, letter)] = client.xrange("topic:dead:group")
    assert letter[b"frame"] == bytes_
    assert letter[b"dead:node"] == b"decode"
    assert pending(client) == []


@given(pushed=st.lists(st.integers(0, 9), max_size=20), batch=st.integers(1, 7), max_entries=st.integers(1, 7))
def test_batches_hold_every_entry_in_order_and_fail_as_a_whole(
    fresh_client: Fresh, pushed: list[int], batch: int, max_entries: int
) -> None:
    client = fresh_client()
    ids = push_all(client, "topic", pushed)
    batches: list[list[Any]] = []

    def check(entries: list[Any]) -> None:
        batches.append(entries)
        if any(entry["n"] == 0 for entry in entries):
            raise ValueError

    run(lambda source: source.sink(check), client, batch=batch, max_entries=max_entries)
    assert [entry.id for entries in batches for entry in entries] == ids
    assert all(len(entries) <= batch for entries in batches)
    failed = [entry.id for entries in batches if any(entry["n"] == 0 for entry in entries) for entry in entries]
    assert [letter["dead:id"] for letter in dead(client)] == failed
    assert pending(client) == []


def test_an_entry_that_cannot_be_decoded_is_left_out_of_its_batch(client: redis.Redis) -> None:
    push_all(client, "topic", [1])
    client.xadd("topic", {"n": b"\xff\xff\xff\xff no Arrow"})
    push_all(client, "topic", [2])
    seen: list[Any] = []
    run(lambda source: source.map(lambda entries: [entry["n"] for entry in entries]).sink(seen.append), client, batch=9)
    assert seen == [[1, 2]]
    assert len(dead(client)) == 1


def test_a_batch_of_no_entries_is_refused() -> None:
    with pytest.raises(SettingsError, match="batch: expected a number of entries above zero, got 0"):
        from_redis("topic", group="group", batch=0)
