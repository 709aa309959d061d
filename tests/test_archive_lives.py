"""An archive whose outlet is killed or told to end while a file is unfinished."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import redis
from streamz import Stream

from deployments.redis_server import RedisServer
from tasks.dataset import open_kind
from tests.streams import crash, dead, drain, here, pending, push_all
from tests.waiting import wait_until


def archived(folder: Path) -> list[int]:
    return sorted(open_kind(folder, "topic", "n").to_table()["n"].to_pylist())


def test_however_often_an_archive_is_killed_over_a_file_its_entries_are_no_dead_letters(
    fake_redis: redis.Redis, tmp_path: Path
) -> None:
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
