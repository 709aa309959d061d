"""Replays of dead letters from pipelines that combine entries need a confirmation."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from streamz import Stream

from tasks import SettingsError
from tasks.group.dead_letters import DeadLetters, Letter, mixing
from tests.support.letters import retrying
from tests.support.streams import consumer, drain, here, push_all, read_all, run


def bad(*_: Any) -> None:
    raise ValueError


def two_branches(source: Stream) -> Stream:
    source.sliding_window(2).sink(lambda _: None)
    return source.map(bad)


COMBINING: dict[str, tuple[Callable[[Stream], Any], tuple[str, ...]]] = {
    "behind a window": (lambda s: s.sliding_window(2, return_partial=False).map(bad), ("sliding_window",)),
    "before a window": (lambda s: s.map(bad).partition(2), ("partition",)),
    "beside a window": (two_branches, ("sliding_window",)),
    "behind a join": (lambda s: s.zip(s.pluck("n")).map(bad), ("zip",)),
    "in an accumulator": (lambda s: s.accumulate(bad, start=0), ("accumulate(bad)",)),
    "before a scan": (lambda s: s.map(bad).scan(max), ("accumulate(max)",)),
    "before two": (
        lambda s: s.map(bad).timed_window(10).combine_latest(s.map(len)), ("combine_latest", "timed_window")
    ),
}  # fmt: skip
SEPARATE: dict[str, Callable[[Stream], Any]] = {
    "map": lambda s: s.map(bad),
    "chain": lambda s: s.filter(len).map(bad).pluck(0).sink(print),
    "flatten": lambda s: s.map(bad).flatten().buffer(2),
    "union": lambda s: s.map(bad).union(s.filter(lambda _: False)),
}


def letters_of(client: redis.Redis, build: Callable[[Stream], Any]) -> DeadLetters:
    push_all(client, "topic", range(3))
    run(build, client)
    return DeadLetters(client, "topic", "group")


@pytest.mark.parametrize("name", COMBINING)
def test_letters_of_windows_and_joins_need_a_confirmation_naming_the_nodes(client: redis.Redis, name: str) -> None:
    build, names = COMBINING[name]
    letters = letters_of(client, build)
    chosen = letters.choose()
    assert chosen
    assert {letter.combines for letter in chosen} == {names}
    with pytest.raises(SettingsError, match="; nothing was replayed") as refused:
        letters.replay(chosen)
    assert f"that combines entries ({', '.join(names)})" in str(refused.value)
    assert "rewind the group or run a bounded replay" in str(refused.value)
    assert retrying(client) == []
    assert {outcome for _, outcome in letters.replay(chosen, into_windows=True)} == {"replayed"}


@pytest.mark.parametrize("name", SEPARATE)
def test_letters_of_pipelines_that_combine_nothing_are_replayed(client: redis.Redis, name: str) -> None:
    letters = letters_of(client, SEPARATE[name])
    assert mixing(letters.choose()) == ""
    assert {outcome for _, outcome in letters.replay(letters.choose())} == {"replayed"}


def test_to_parquet_does_not_count_as_combining(client: redis.Redis, tmp_path: Path) -> None:
    letters = letters_of(client, lambda source: source.map(bad).to_parquet(tmp_path))
    assert {letter.combines for letter in letters.choose()} == {()}


def test_letters_name_nodes_that_were_added_to_a_running_pipeline(client: redis.Redis) -> None:
    async def main() -> None:
        source = here(client)
        kept = [source.map(bad)]
        source.open()
        for _ in range(2):
            push_all(client, "topic", [1])
            await drain(source)
            kept.append(source.accumulate(lambda _, entry: entry, start=None, stream_name="latest"))
        source.close()

    asyncio.run(main())
    letters = DeadLetters(client, "topic", "group").choose()
    assert [letter.combines for letter in letters] == [(), ("latest",)]


def test_letters_of_an_unknown_pipeline_need_a_confirmation(client: redis.Redis) -> None:
    push_all(client, "topic", range(2))
    one = consumer(client)  # as versions before this one wrote them
    for entry in read_all(one):
        one.dead_letter("topic", entry.id, node="map", exception="x")
    letters = DeadLetters(client, "topic", "group")
    with pytest.raises(SettingsError, match="of 2 dead letters, 2 come from an unknown pipeline"):
        letters.replay(letters.choose())


def test_undecodable_and_poison_entries_record_their_pipeline_too(client: redis.Redis) -> None:
    client.xadd("topic", {"n": b"\xff\xff\xff\xff no value"})
    run(lambda source: source.sliding_window(2).sink(lambda _: None), client)
    [letter] = DeadLetters(client, "topic", "group").choose()
    assert (letter.node, letter.combines) == ("decode", ("sliding_window",))


def test_missing_and_foreign_letters_do_not_count_as_combined() -> None:
    assert mixing([Letter("1-1"), Letter("1-2", combines=())]) == ""
