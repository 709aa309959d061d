"""The test kit reads and feeds partitioned topics."""

from typing import Any

import pandas as pd
from streamz import Stream

from tasks.reservoir.partitions import Partitioning, declare, partition_for
from tasks.testing import Bench, fake_redis


def test_bench_pushes_by_key_and_reads_all_partitions() -> None:
    client = fake_redis()
    declare(client, "bars", Partitioning(3, "code"))
    entries = [{"code": 600_000 + n, "n": n} for n in range(12)]

    def build(source: Stream) -> Stream:
        return source.filter(lambda entry: entry["n"] % 2 == 0 or 1 / 0).pluck("n")

    with Bench(build, topics="bars", client=client) as bench:
        bench.push(*entries)
        assert bench.unread == entries
        bench.drain()
        bench.stop()
    assert sorted(bench.results) == [0, 2, 4, 6, 8, 10]
    assert bench.acked == entries[::2]
    assert [letter.entry for letter in bench.dead] == entries[1::2]
    assert [client.xlen(f"bars:{{{n}}}") for n in range(3)] == [
        sum(partition_for(entry["code"], 3) == n for entry in entries) for n in range(3)
    ]


def test_bench_splits_frames_by_their_rows() -> None:
    client = fake_redis()
    declare(client, "bars", Partitioning(3, "code"))
    seen: list[Any] = []
    with Bench(lambda source: source.pluck("rows").sink(seen.append), topics="bars", client=client) as bench:
        bench.push({"rows": pd.DataFrame({"code": range(600_000, 600_012)})})
        bench.drain()
        bench.stop()
    assert [len({partition_for(code, 3) for code in rows["code"]}) for rows in seen] == [1, 1, 1]
    assert sorted(code for rows in seen for code in rows["code"]) == list(range(600_000, 600_012))
