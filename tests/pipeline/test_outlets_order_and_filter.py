"""An outlet's promises on order and filtering, checked against plain lists on each kind of server."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from streamz import Stream

from tasks import SettingsError, has
from tasks.nodes.from_redis import from_redis
from tasks.testing import Bench, Pushed, drain, entries, values
from tests.support.streams import here, push_all

Fresh = Callable[[], redis.Redis]

numbers = entries(n=values(), max_size=30)
# A set of entries stands for any predicate.
chosen = numbers.flatmap(
    lambda pushed: st.tuples(st.just(pushed), st.sets(st.sampled_from([e.id for e in pushed] or [""])))
)


@given(case=chosen)
def test_outlet_emits_exactly_the_filtered_entries_in_push_order(
    fresh_client: Fresh, case: tuple[list[Pushed], set[str]]
) -> None:
    pushed, wanted = case
    run = drain(lambda s: s.filter(lambda entry: entry.id in wanted).pluck("n"), pushed, client=fresh_client())
    assert run.results == [entry["n"] for entry in pushed if entry.id in wanted]
    assert run.acked == pushed


@given(pushed=entries(quotes=st.integers(), seconds=st.integers(), odd=st.integers(), max_size=30))
def test_has_selects_entries_of_a_shared_topic_by_their_fields(fresh_client: Fresh, pushed: list[Pushed]) -> None:
    both: list[Any] = []

    def build(source: Stream) -> Stream:
        source.filter(has("quotes", "seconds")).sink(both.append)
        return source.filter(has("quotes"))

    run = drain(build, pushed, client=fresh_client())
    assert run.results == [fields for fields in pushed if "quotes" in fields]
    assert both == [fields for fields in pushed if {"quotes", "seconds"} <= set(fields)]


@given(pushed=numbers)
def test_each_group_sees_every_entry(fresh_client: Fresh, pushed: list[Pushed]) -> None:
    client = fresh_client()
    one = drain(lambda s: s.pluck("n"), pushed, client=client, group="one")
    with Bench(lambda s: s.pluck("n"), client=client, group="two") as two:
        two.drain()
    assert one.results == two.results == [entry["n"] for entry in pushed]


@given(pushed=entries(n=values(), topics=["left", "right"], max_size=40))
def test_each_topic_of_an_outlet_keeps_its_order(fresh_client: Fresh, pushed: list[Pushed]) -> None:
    run = drain(lambda s: s.map(lambda e: (e.topic, e["n"])), pushed, client=fresh_client(), topics=["left", "right"])
    for topic in ("left", "right"):
        assert [n for of, n in run.results if of == topic] == [e["n"] for e in pushed if e.topic == topic]


@given(
    pushed=st.lists(st.integers(0, 5), max_size=60),
    readers=st.integers(1, 3),
    max_entries=st.integers(1, 7),
    turns=st.lists(st.integers(0, 2), max_size=60),
)
def test_consumers_of_a_group_share_its_entries_and_each_reads_in_order(
    fresh_client: Fresh, pushed: list[int], readers: int, max_entries: int, turns: list[int]
) -> None:
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
            while await source.step():
                pass
            source.close()
        del kept

    asyncio.run(main())
    assert sorted(id_ for own in seen for id_ in own) == sorted(ids)
    for own in seen:
        assert own == [id_ for id_ in ids if id_ in set(own)]


@given(case=chosen)
def test_entry_that_makes_the_pipeline_raise_becomes_a_dead_letter(
    fresh_client: Fresh, case: tuple[list[Pushed], set[str]]
) -> None:
    pushed, bad = case

    def check(entry: Any) -> Any:
        if entry.id in bad:
            msg = "out of range"
            raise ValueError(msg)
        return entry["n"]

    run = drain(lambda s: s.map(check), pushed, client=fresh_client())
    assert run.results == [entry["n"] for entry in pushed if entry.id not in bad]
    assert run.dead == [(e, "map(check)", "ValueError('out of range')") for e in pushed if e.id in bad]
    assert run.acked == [entry for entry in pushed if entry.id not in bad]


def test_undecodable_entry_becomes_a_dead_letter_with_its_bytes_unchanged(client: redis.Redis) -> None:
    poison = {b"frame": b"\xff\xff\xff\xff no Arrow stream"}
    run = drain(lambda s: s.pluck("n"), [poison, {"n": 1}], client=client)
    assert run.results == [1]
    assert [(letter.entry, letter.node) for letter in run.dead] == [(poison, "decode")]
    [(_, letter)] = client.xrange("topic:dead:group")
    assert letter[b"frame"] == poison[b"frame"]


@given(pushed=entries(n=st.integers(0, 9), max_size=20), batch=st.integers(1, 7), max_entries=st.integers(1, 7))
def test_batches_hold_every_entry_in_order_and_fail_as_a_whole(
    fresh_client: Fresh, pushed: list[Pushed], batch: int, max_entries: int
) -> None:
    batches: list[list[Any]] = []

    def check(entries: list[Any]) -> None:
        batches.append(entries)
        if any(entry["n"] == 0 for entry in entries):
            raise ValueError

    options = {"batch": batch, "max_entries": max_entries}
    run = drain(lambda s: s.sink(check), pushed, client=fresh_client(), options=options)
    assert [entry.id for entries in batches for entry in entries] == [entry.id for entry in pushed]
    assert all(len(entries) <= batch for entries in batches)
    failed = {entry.id for entries in batches if any(entry["n"] == 0 for entry in entries) for entry in entries}
    assert [letter.entry for letter in run.dead] == [entry for entry in pushed if entry.id in failed]
    assert run.pending == []


def test_undecodable_entry_is_left_out_of_its_batch(client: redis.Redis) -> None:
    pushed = [{"n": 1}, {b"n": b"\xff\xff\xff\xff no Arrow"}, {"n": 2}]
    run = drain(lambda s: s.map(lambda es: [e["n"] for e in es]), pushed, client=client, options={"batch": 9})
    assert run.results == [[1, 2]]
    assert len(run.dead) == 1


def test_batch_size_of_zero_is_refused() -> None:
    with pytest.raises(SettingsError, match="batch: expected a whole number from 1 on, got 0"):
        from_redis("topic", group="group", batch=0)
