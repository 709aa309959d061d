"""Archives whose outlet is killed or stopped during a write, or whose group is rewound."""

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from streamz import Stream

from deployments.servers.redis_server import RedisServer
from tasks import Reservoir
from tasks.archive.dataset import open_archive, open_kind
from tests.support.streams import crash, dead, drain, here, pending, push_all
from tests.support.waiting import wait_until


def archived(folder: Path) -> list[int]:
    return sorted(open_kind(folder, "topic", "n").to_table()["n"].to_pylist())


def test_archive_killed_while_writing_makes_no_dead_letters(fake_redis: redis.Redis, tmp_path: Path) -> None:
    ids = push_all(fake_redis, "topic", range(5))

    async def live(*, to_its_end: bool) -> None:
        source = here(fake_redis, max_deliveries=3)
        node: Any = source.to_parquet(tmp_path)
        source.open()
        await drain(source)
        if to_its_end:
            node.flush()
            source.close()
        else:
            crash(source, fake_redis)

    for _ in range(4):
        asyncio.run(live(to_its_end=False))
        assert pending(fake_redis) == ids
    asyncio.run(live(to_its_end=True))
    assert dead(fake_redis) == []
    assert archived(tmp_path) == list(range(5))


def test_a_bounded_archive_does_not_end_before_the_disk_has_taken_it(
    real_redis: redis.Redis, redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_all(real_redis, "topic", range(5))
    folder = tmp_path / "archive"
    folder.write_text("no folder")
    source = Stream.from_redis("topic", group="group", url=redis_server.url, until="now")
    kept: Any = source.to_parquet(folder)
    refused: list[bool] = []
    flush = kept.before_stop
    monkeypatch.setattr(kept, "before_stop", lambda: refused.append(not flush()) or not refused[-1])
    source.start()
    wait_until(lambda: len(refused) > 3, "several tries: one at the bound, one at the end would be two")
    assert all(refused)
    assert not source.outcome.done()
    folder.unlink()
    source.join(20)
    assert archived(folder) == list(range(5))
    assert pending(real_redis) == []
    del kept


@given(st.lists(st.integers(0, 2), min_size=1, max_size=6), st.lists(st.integers(1, 6), min_size=2, max_size=4))
def test_groups_that_begin_again_with_other_batches_write_each_row_once(
    fresh_client: Callable[[], redis.Redis], sizes: list[int], batches: list[int]
) -> None:
    client = fresh_client()
    full = pd.DataFrame({"price": [1.5, 2.5]})
    ids = [Reservoir(client).push("topic", {"quotes": full[:size]}) for size in sizes]

    async def archive(folder: str, group: str, batch: int) -> None:
        source = here(client, group=group)
        node: Any = source.to_parquet(folder, max_entries=batch)
        source.open()
        await drain(source)
        node.flush()
        source.close()

    with tempfile.TemporaryDirectory() as folder:
        for n, batch in enumerate(batches):
            asyncio.run(archive(folder, f"group{n}", batch))
            found = open_archive(folder).to_table()["entry_id"].to_pylist()
            assert sorted(found) == sorted(id_ for id_, size in zip(ids, sizes, strict=True) for _ in range(size))


@pytest.mark.parametrize("field", [pd.DataFrame({"at": np.array([2**60], "M8[s]")}), np.zeros((1, 1, 1))])
def test_an_entry_that_parquet_cannot_hold_is_the_only_dead_letter(
    client: redis.Redis, tmp_path: Path, field: object
) -> None:
    ids = push_all(client, "topic", range(3))
    bad = Reservoir(client).push("topic", {"f": field})

    async def archive() -> None:
        source = here(client)
        source.to_parquet(tmp_path, max_entries=3)
        source.open()
        await drain(source)
        source.close()

    asyncio.run(archive())
    assert [letter["dead:id"] for letter in dead(client)] == [bad]
    assert (archived(tmp_path), len(ids), pending(client)) == ([0, 1, 2], 3, [])
