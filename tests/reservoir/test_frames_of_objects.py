"""Frames of objects, such as `pd.DataFrame(rows).T`: pushed after `infer_objects()`, with one log line per topic."""

import logging

import pandas as pd
import pytest
import redis

from tasks import EncodeError, Reservoir
from tasks.testing import drain, pumped

ROWS = {"sh600000": {"name": "a", "now": 1.5}, "sz000001": {"name": "b", "now": 2.5}}


def test_frame_of_objects_is_pushed_with_one_log_line_per_topic(
    client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    reservoir = Reservoir(client)
    with caplog.at_level(logging.INFO, logger="tasks.reservoir.reservoir"):
        for topic in ("market", "market", "other"):
            reservoir.push(topic, {"quotes": pd.DataFrame(ROWS).T})
    assert [line for line in caplog.messages if "infer_objects" in line] == [
        f"topic {topic!r}: frames of objects are pushed after infer_objects(); this is logged once"
        for topic in ("market", "other")
    ]
    for entry in reservoir.peek("market", 2):
        assert isinstance(entry, dict)
        assert entry["quotes"].dtypes.astype(str).tolist() == ["str", "float64"]
        assert entry["quotes"].to_dict("index") == ROWS


def test_frame_of_mixed_objects_is_refused(client: redis.Redis) -> None:
    with pytest.raises(EncodeError, match="field 'x': column 'a': expected objects of one type"):
        Reservoir(client).push("market", {"x": pd.DataFrame({"a": [1, "x"]})})
    assert not client.exists("market")


def test_kit_pushes_frames_of_objects_like_an_inlet() -> None:
    (entry,) = pumped(lambda: {"quotes": pd.DataFrame(ROWS).T})
    assert entry["quotes"].to_dict("index") == ROWS
    run = drain(lambda source: source.map(lambda each: len(each["quotes"])), [{"quotes": pd.DataFrame(ROWS).T}])
    assert run.results == [2]
