"""Frames of any library go through the whole stream: pumped, emitted, read as chosen, pushed as results and archived."""

from pathlib import Path
from typing import Any, Literal

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import redis
from streamz import Stream

from tasks import Reservoir, SettingsError
from tasks.archive.dataset import open_kind
from tasks.nodes.from_redis import from_redis
from tasks.pump.returned import as_entries
from tasks.testing import Bench

quotes = pl.DataFrame({"code": ["a", "b"], "now": [1.5, None], "tags": [["x"], []]})


def batches() -> Any:
    yield quotes
    yield {"quotes": quotes, "n": 1}


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (quotes, [["quotes"]]),
        (pa.table(quotes), [["quotes"]]),
        (pa.table(quotes).to_reader(), [["quotes"]]),
        (batches(), [["quotes"], ["quotes", "n"]]),
    ],
    ids=["polars", "table", "reader", "several"],
)
def test_pump_may_return_a_frame_of_any_library(value: Any, names: list[list[str]]) -> None:
    assert [list(entry) for entry in as_entries(value, name="quotes")] == names


@pytest.mark.parametrize(("frames", "kind"), [("pandas", pd.DataFrame), ("polars", pl.DataFrame), ("arrow", pa.Table)])
def test_pipeline_gets_frames_as_chosen_and_emits_its_own(
    client: redis.Redis, tmp_path: Path, frames: Literal["pandas", "polars", "arrow"], kind: type
) -> None:
    folder = tmp_path / "archive"

    def build(source: Stream) -> Stream:
        source.to_parquet(folder)
        return source.pluck("quotes")

    with Bench(build, client=client, into="results", options={"frames": frames}) as bench:
        bench.push({"quotes": quotes}, {"quotes": pd.DataFrame({"code": ["c"], "now": [2.5]})})
        bench.drain()
        bench.stop()
    assert not bench.dead
    assert [type(result) for result in bench.results] == [kind, kind]
    results = [pa.table(entry["results"])["code"].to_pylist() for entry in Reservoir(client).peek("results", 2)]
    assert results == [["a", "b"], ["c"]]
    archived = open_kind(folder, "topic", "quotes").to_table(columns=["code", "now"]).sort_by("code")
    assert archived.to_pylist() == [{"code": "a", "now": 1.5}, {"code": "b", "now": None}, {"code": "c", "now": 2.5}]


def test_source_refuses_an_unknown_frames_option(client: redis.Redis) -> None:
    with pytest.raises(SettingsError, match="frames: expected 'pandas' or 'polars' or 'arrow', got 'dask'"):
        from_redis("topic", group="group", client=client, frames="dask")  # type: ignore[arg-type]
