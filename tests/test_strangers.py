"""What other programs keep in the same Redis, under names and ids of their own, breaks nothing that looks at it."""

from datetime import UTC, datetime

import redis
from rich.console import Console

from deployments.as_json import entry_object, line
from deployments.tables import entry_table, letters_table, levels_table
from tasks import Entry, Reservoir
from tasks.dataset import rows_of
from tasks.deadletters import Letter
from tasks.history import markdown
from tests.streams import push_all

MICROSECONDS = "1700000000000000-0"  # as some write ids: a day in the year 55840


def shown(*parts: object, width: int = 120) -> str:
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(*parts)
    return capture.get()


def test_a_stream_whose_name_no_topic_can_have_is_no_topic(client: redis.Redis) -> None:
    push_all(client, "market", [1])
    for name in (b"\xff\xfe", b"two words", b"queue:1", b"a/b", b"sluice:levels"):
        client.xadd(name, {"n": 1})
    assert Reservoir(client).topics() == ["market"]


def test_an_id_that_is_no_time_is_shown_with_the_last_moment_there_is(client: redis.Redis) -> None:
    client.xadd("market", {"n": 1}, id=MICROSECONDS)
    reservoir = Reservoir(client)
    levels, [entry] = reservoir.levels(), reservoir.peek("market")
    assert isinstance(entry, Entry)
    last = datetime(9999, 12, 30, 23, 59, 59, tzinfo=UTC)
    assert entry.time == Letter(MICROSECONDS).time == last
    assert rows_of(entry)[0].partition.name == "day=9999-12-30"
    assert "9999-12-30 23:59:59" in markdown(levels, [])
    assert "9999-12-30" in line(entry_object(entry, "market"))
    assert "market" in shown(levels_table(levels), letters_table([Letter(MICROSECONDS)]), entry_table("market", entry))
