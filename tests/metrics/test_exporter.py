"""The exporter shows what Redis holds, costs few round trips, and answers without Redis."""

import json
import signal
import socket
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import psutil
import pytest
import redis

from deployments.metrics.exporter import Exporter
from deployments.metrics.reading import Reader
from deployments.servers.redis_server import RedisServer
from tasks import Reservoir, SettingsError
from tasks.pump.ticks import Beat
from tasks.settings import metrics_port
from tests.metrics.conftest import scraped
from tests.support.commands import redis_of, running, sluice
from tests.support.ports import reserve_port
from tests.support.streams import push_all
from tests.support.waiting import wait_until


def test_a_scrape_shows_topics_groups_and_inlets(filled: redis.Redis, exporter: Exporter) -> None:
    samples = scraped(exporter)

    def value(name: str, **labels: str) -> float:
        [found] = [value for of, value in samples[name] if labels.items() <= of.items()]
        return found

    topic, group = {"messaging_destination_name": "topic"}, {"messaging_consumer_group_name": "group"}
    consumed = "messaging_client_consumed_messages_total"
    assert value("sluice_redis_up") == 1
    assert value("sluice_topic_readable", **topic) == 1
    assert value("sluice_topic_entries", **topic) == 11
    assert value("messaging_client_sent_messages_total", messaging_operation_name="append", **topic) == 11
    assert value("sluice_group_lag_entries", **topic, **group) == 4
    assert value("sluice_group_pending_entries", **topic, **group) == 1
    assert value("sluice_group_oldest_pending_age_seconds", **topic, **group) > 0
    assert value("sluice_group_lag_seconds", **topic, **group) > 0
    assert value("sluice_group_dead_letters", **topic, **group) == 1
    assert value("sluice_group_retrying_calls", **topic, **group) == 2
    assert value("sluice_group_spilled_entries_total", **topic, **group) == 3
    assert value(consumed, messaging_operation_name="ack", **topic, **group) == 5
    assert value(consumed, error_type="dead_letter", **topic, **group) == 1
    ticks = {of["outcome"]: n for of, n in samples["sluice_inlet_ticks_total"] if of["inlet"] == "quotes"}
    assert ticks == {"pushed": 1, "nothing": 0, "missed": 2, "failed": 3, "lost": 0}
    assert value("sluice_inlet_entries_total", inlet="quotes", **topic) == 1


def test_counts_outlast_their_runs_and_add_up_over_parameters(client: redis.Redis, exporter: Exporter) -> None:
    for board, pushed in (("sh", 2), ("sz", 3)):
        for _ in range(2):
            beat = Beat(Reservoir(client), "topic", "quotes", every=1.0, parameters={"board": board})
            beat.start(100.0)
            beat.count({"pushed": pushed, "entries": pushed})
    [(labels, n)] = [each for each in scraped(exporter)["sluice_inlet_ticks_total"] if each[0]["outcome"] == "pushed"]
    assert (labels["inlet"], labels["messaging_destination_name"], n) == ("quotes", "topic", 10)


def test_scrape_without_redis_reports_that_and_shows_no_old_values() -> None:
    def away() -> redis.Redis:
        msg = "no answer"
        raise redis.ConnectionError(msg)

    with Exporter(away, host="127.0.0.1", port=0) as exporter:
        samples = scraped(exporter)
    assert samples.pop("sluice_redis_up") == [({}, 0.0)]
    assert set(samples) == {"sluice_reading_seconds"}


@pytest.mark.odd_keys
def test_an_unreadable_topic_hides_no_other(filled: redis.Redis, exporter: Exporter) -> None:
    push_all(filled, "odd", range(2))
    filled.delete("sluice:index:odd")
    filled.set("sluice:index:odd", "x", px=60_000)
    samples = scraped(exporter)
    readable = {of["messaging_destination_name"]: n for of, n in samples["sluice_topic_readable"]}
    assert readable == {"topic": 1, "odd": 0}
    assert [of["messaging_destination_name"] for of, _ in samples["sluice_topic_entries"]] == ["topic"]


def test_a_hundred_topics_take_three_round_trips_once_their_names_are_known(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: Any = client
    for n in range(100):
        push_all(client, f"topic{n}", range(2))
        known.xgroup_create(f"topic{n}", "group", "0")
    now = 0.0
    reader = Reader(lambda: client, timer=lambda: now)
    assert len(reader.read().topics) == 100
    sent: list[str] = []
    pipeline, command = client.pipeline, client.execute_command

    def counting_pipeline(*args: Any, **options: Any) -> Any:
        sent.append("pipeline")
        return pipeline(*args, **options)

    def counting_command(*args: Any, **options: Any) -> Any:
        sent.append(args[0])
        return command(*args, **options)

    monkeypatch.setattr(client, "pipeline", counting_pipeline)
    monkeypatch.setattr(client, "execute_command", counting_command)
    now = 30.0
    assert len(reader.read().topics) == 100
    assert sent == ["pipeline"] * 2, "levels, and dead letters; there is no inlet"
    now = 30.5
    assert reader.read() is reader.read(), "scrapes of the same second share one reading"
    assert len(sent) == 2
    now = 60.0
    push_all(client, "new", range(1))
    assert len(reader.read().topics) == 101, "names are looked up each minute"


def test_a_port_that_is_taken_is_refused_with_the_setting_that_changes_it(client: redis.Redis) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            SettingsError, match=rf"expected port {port} on 127.0.0.1 to be free.*SLUICE_METRICS_PORT=off"
        ):
            Exporter(lambda: client, host="127.0.0.1", port=port)


@pytest.mark.parametrize(("given", "port"), [("", 9464), ("9000", 9000), ("off", None)])
def test_the_setting_is_a_port_or_off(given: str, port: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_METRICS_PORT", given)
    assert metrics_port() == port


@pytest.mark.parametrize("given", ["0", "65536", "on", "-1", "9464.0", "٩"])
def test_another_setting_is_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_METRICS_PORT", given)
    with pytest.raises(SettingsError, match="SLUICE_METRICS_PORT: expected a port from 1 to 65535, or 'off'"):
        metrics_port()


def test_the_command_serves_until_ctrl_c_on_loopback(redis_server: RedisServer, tmp_path: Path) -> None:
    port = reserve_port()
    with running("metrics", "--port", str(port), env=redis_of(tmp_path, redis_server)) as (process, output):
        wait_until(lambda: b"Ctrl-C stops" in output.read_bytes(), "the line that says where")
        assert f"http://127.0.0.1:{port}/metrics".encode() in output.read_bytes()
        with build_opener(ProxyHandler({})).open(f"http://127.0.0.1:{port}/metrics", timeout=30) as response:
            assert b"sluice_redis_up 1.0" in response.read()
        connections = psutil.Process(process.pid).net_connections("inet")
        assert {each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN} == {"127.0.0.1"}
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def test_the_command_prints_dashboard_and_rules(tmp_path: Path) -> None:
    assert json.loads(sluice("metrics", "--dashboard", state=tmp_path).stdout)["title"] == "Sluice"
    assert "alert: SluiceEntriesSpilled" in sluice("metrics", "--rules", state=tmp_path).stdout
