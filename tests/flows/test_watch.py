"""The watch beside an outlet's stream, on a real Prefect server: report, state, log and stalls delay no stream."""

import itertools
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.context import FlowRunContext
from prefect.states import Cancelling
from rich.console import Console
from streamz import Stream

from deployments.servers.redis_server import RedisServer
from flows import inlet, outlet, outlets
from flows.runtime import outlet_alarms, outlet_log, outlet_report, outlet_watch, own_state, prefect_api, stopping
from tasks import SluiceError
from tasks.base.ids import id_time
from tests.support.ports import refusing_port
from tests.support.streams import pending, push_all
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("prefect")


@pytest.fixture(autouse=True)
def url(redis_server: RedisServer, real_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SLUICE_REDIS_URL", redis_server.url)
    monkeypatch.setattr(outlet_watch, "_LOOK_SECONDS", 0.1)
    return redis_server.url


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


def artifacts(client: SyncPrefectClient, key: str) -> list[dict[str, Any]]:
    return client._client.post("/artifacts/filter", json={"artifacts": {"key": {"any_": [key]}}}).json()


def this_run() -> FlowRun:
    context = FlowRunContext.get()
    assert context
    assert context.flow_run
    return context.flow_run


def test_a_run_has_one_report_with_its_graph_its_failures_and_its_last_result(
    real_redis: redis.Redis, client: SyncPrefectClient
) -> None:
    push_all(real_redis, "topic", range(5))

    @outlet(topics="topic", group="reported", until="now")
    def halves(source: Stream) -> Stream:
        return source.map(half).accumulate(lambda total, n: {"total": total["total"] + n}, start={"total": 0})

    def half(entry: Any) -> float:
        return 10 / entry["n"]

    halves()
    [artifact] = artifacts(client, "outlet-halves-reported")
    assert artifact["type"] == "markdown"
    assert "```mermaid" in artifact["data"]
    assert "| map(half) | 5 | 4 | 1 |" in artifact["data"]
    assert "class n1 bad" in artifact["data"]
    assert "| topic | 0 | - | 0 |" in artifact["data"]
    assert "| total | 20.8333 |" in artifact["data"]


def test_failures_of_entries_are_summed_up_in_the_log_of_the_run(
    real_redis: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    push_all(real_redis, "topic", range(3))
    for _ in range(100):
        real_redis.xadd("topic", {"bad": b"\xff\xff\xff\xffrubbish"})

    @outlet(topics="topic", group="group", until="now")
    def halves(source: Stream) -> None:
        source.map(lambda e: 10 / e["n"]).sink(lambda _: None)

    halves()
    records = [r for r in caplog.records if "dead letters" in r.getMessage()]
    assert {(r.name, r.levelname, bool(r.flow_run_id)) for r in records} == {("prefect.flow_runs", "WARNING", True)}  # type: ignore[attr-defined]
    first, poison, more = sorted(
        (r.getMessage() for r in records), key=lambda text: ("decoded" in text, "times" in text)
    )
    assert "ZeroDivisionError" in first
    assert "group 'group': entries that cannot be decoded became dead letters, at last topic 'topic' entry " in poison
    assert "entries that cannot be decoded became dead letters (99 times), at last " in more


def test_a_run_logs_takeovers_and_its_counts_in_one_line(
    real_redis: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    push_all(real_redis, "topic", range(3))
    real_redis.xgroup_create("topic", "group", "0")
    real_redis.xreadgroup("group", "gone", {"topic": ">"})

    @outlet(topics="topic", group="group", start_from="new", until="now")
    def numbers(source: Stream) -> None:
        source.sink(lambda _: None)

    state = numbers(return_state=True)
    records = [r.getMessage() for r in caplog.records if "entries" in r.getMessage() and r.levelname == "INFO"]
    [own] = [line for line in records if not line.startswith("Finished in state")]
    assert own.startswith("numbers: group 'group' has read 3 entries of topic; ")
    assert "3 entries taken over from dead consumer 'gone'" in own
    assert "continues at its position; start_from='new' applies to new groups only" in own
    assert state.message == "Stopped in good order: group 'group' has read 3 entries of topic."


def test_a_runs_line_is_a_warning_with_the_dead_letter_command_while_failures_occur(
    real_redis: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    stop_run: Callable[[], None],
) -> None:
    monkeypatch.setattr(outlet_log, "_FIRST_LINE_SECONDS", 0.1)
    monkeypatch.setattr(outlet_log, "_LINE_SECONDS", 0.1)
    caplog.set_level("INFO")

    @outlet(topics=["topic", "other"], group="group")
    def raiser(source: Stream) -> None:
        source.map(lambda e: 1 // e["n"]).sink(lambda _: None)

    def logged_lines(read: int) -> list[str]:
        texts = [r.getMessage() for r in caplog.records if r.name == "flows.outlets"]
        return [text for text in texts if f"has read {read} entries of topic, other, " in text]

    def feed() -> None:
        for numbers, read in (([0, 0], 2), ([1], 3), ([0], 4)):
            push_all(real_redis, "topic", numbers)
            wait_until(lambda read=read: logged_lines(read), f"the line on {read} entries")
        stop_run()

    helper = threading.Thread(target=feed)
    helper.start()
    try:
        raiser.fn()
    finally:
        helper.join()
    levels = {text: r.levelname for r in caplog.records if "has read" in (text := r.getMessage())}
    commands = "; what failed: `sluice dead topic group`, `sluice dead other group`"
    for read, failures, level in (
        (2, "2 failures", "WARNING"),
        (3, "2 failures", "INFO"),
        (4, "3 failures", "WARNING"),
    ):
        [line] = logged_lines(read)
        assert line.endswith(f"{failures}{commands if level == 'WARNING' else ''}")
        assert levels[line] == level


def test_a_run_that_is_to_stop_at_a_failure_names_no_dead_letters(
    real_redis: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    push_all(real_redis, "topic", [0])

    @outlet(topics="topic", group="group", on_error="stop")
    def raiser(source: Stream) -> None:
        source.map(lambda e: 1 // e["n"]).sink(lambda _: None)

    with pytest.raises(SluiceError):
        raiser.fn()
    [line] = [r for r in caplog.records if "has read" in r.getMessage()]
    assert line.levelname == "WARNING"
    assert line.getMessage().endswith("has read 1 entries of topic, 1 failure")


def test_a_replay_shows_its_progress_up_to_the_end(real_redis: redis.Redis, client: SyncPrefectClient) -> None:
    ids = push_all(real_redis, "topic", range(20))

    @outlet(topics="topic", group="replay", until="now")
    def replay(source: Stream) -> None:
        source.map(lambda e: e["n"]).rate_limit(0.02).sink(lambda n: None)

    replay()
    [artifact] = artifacts(client, "outlet-replay-progress")
    assert (artifact["type"], artifact["data"]) == ("progress", 100.0)
    [artifact] = artifacts(client, "outlet-replay")
    assert f"**100 %** of a replay up to topic {id_time(ids[-1]):%Y-%m-%d %H:%M:%S} UTC" in artifact["data"]
    assert re.search(r'n0 -->\|"(?!0/s)[\d.]+/s"\| n1', artifact["data"])  # the rate of the whole run


def test_a_run_cancelled_in_prefect_stops_without_a_signal_and_ends_as_cancelled(
    real_redis: redis.Redis, client: SyncPrefectClient
) -> None:
    ids = push_all(real_redis, "topic", range(5))
    seen: list[int] = []

    @outlet(topics="topic", group="group")
    def forever(source: Stream) -> None:
        client.set_flow_run_state(this_run().id, Cancelling())
        source.map(lambda e: e["n"]).sliding_window(2).sink(seen.append)

    state: State = forever(return_state=True)
    assert state.type == StateType.CANCELLED
    assert pending(real_redis) == ids[-1:] or not seen


def test_a_cancelled_run_stops_although_the_shared_poll_is_silent(
    real_redis: redis.Redis, client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_state, "_UNKNOWN", 0.0)  # every answer from there is out of date
    push_all(real_redis, "topic", range(5))

    @outlet(topics="topic", group="group", run_for="90s")
    def forever(source: Stream) -> None:
        client.set_flow_run_state(this_run().id, Cancelling())
        source.sink(lambda _: None)

    state: State = forever(return_state=True)
    assert state.type == StateType.CANCELLED


def test_a_running_outlet_reports_each_half_minute_and_trouble_sooner(
    real_redis: redis.Redis, client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch, stop_run: Callable[[], None]
) -> None:
    monkeypatch.setattr(outlet_report, "_NEW", 0.0)
    monkeypatch.setattr(outlet_report, "_SOON", 0.0)

    @outlet(topics="topic", group="later", run_for="90s")
    def later(source: Stream) -> None:
        source.map(lambda e: 1 // e["n"]).sink(lambda _: None)

    def data() -> str:
        return "".join(each["data"] for each in artifacts(client, "outlet-later"))

    def feed() -> None:
        wait_until(data, "the first report")
        push_all(real_redis, "topic", [1])
        wait_until(lambda: real_redis.xinfo_groups("topic")[0]["entries-read"], "the entry to be read")
        reported = data()
        push_all(real_redis, "topic", [0])
        wait_until(lambda: "| 2 | 1 | 1 |" in data(), "the report on the failure")
        quiet.append("| 1 | 1 | 0 |" not in reported)
        stop_run()

    quiet: list[bool] = []
    helper = threading.Thread(target=feed)
    helper.start()
    later()
    helper.join()
    assert quiet == [True]


@pytest.mark.parametrize("is_own_process", [True, False])
def test_signalled_runs_end_as_cancelled_in_their_own_process(
    real_redis: redis.Redis, stop_run: Callable[[], None], monkeypatch: pytest.MonkeyPatch, is_own_process: bool
) -> None:
    push_all(real_redis, "topic", range(5))

    @outlet(topics="topic", group="group", run_for="90s")
    def reads(source: Stream) -> None:
        source.sink(lambda _: stop_run())

    @inlet(topic="pushed", every="100ms", window="90s")
    def pushes() -> None:
        stop_run()

    monkeypatch.setattr(Console, "on_broken_pipe", Console.on_broken_pipe)  # a run's process changes them
    monkeypatch.setattr(stopping, "is_in_a_process_of_its_own", lambda: is_own_process)
    ended = [flow(return_state=True) for flow in (reads, pushes)]
    assert [state.type for state in ended] == [StateType.CANCELLED if is_own_process else StateType.COMPLETED] * 2


def test_a_stalled_pipeline_is_reported_in_log_event_and_report(
    real_redis: redis.Redis, client: SyncPrefectClient, caplog: pytest.LogCaptureFixture
) -> None:
    push_all(real_redis, "topic", range(3))
    monkeypatched = threading.Event()

    @outlet(topics="topic", group="stuck", stall_after="300ms", run_for="1s")
    def stuck(source: Stream) -> None:
        kept = source.sliding_window(2, return_partial=False)
        kept.map(blocking).sink(lambda _: None)

    def blocking(window: Any) -> Any:
        monkeypatched.wait(2.5)  # in the loop's own thread
        monkeypatched.set()
        return window

    stuck()
    [record] = [r for r in caplog.records if "no progress on" in r.getMessage()]
    assert "the pipeline is at map(blocking)" in record.getMessage()

    def events() -> list[Any]:
        body = {"filter": {"event": {"name": ["sluice.outlet.stalled"]}}}
        return client._client.post("/events/filter", json=body).json()["events"]

    wait_until(events, "the event")
    assert events()[0]["payload"]["nodes"] == ["map(blocking)"]


def test_an_outlet_that_is_behind_is_reported_in_its_log_and_its_report(
    real_redis: redis.Redis,
    client: SyncPrefectClient,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outlet_alarms, "_EVERY", 0.1)
    with real_redis.pipeline() as pipe:
        for n in range(5_000):
            pipe.xadd("topic", {"n": "1"}, id=f"{1_700_000_000_000 + n}-0")  # of years ago
        pipe.execute()

    @outlet(topics="topic", group="late", run_for="1500ms")
    def late(source: Stream) -> None:
        source.map(slow).sink(lambda _: None)

    def slow(entry: Any) -> Any:
        time.sleep(0.02)  # so that most entries are unread at the end
        return entry

    late()
    [artifact] = artifacts(client, "outlet-late")
    assert re.search(r"^\*\*Behind by [0-9]+ d\*\*: [0-9,]+ unread, ", artifact["data"], re.MULTILINE)
    assert "class a0 bad" in artifact["data"]
    [line] = [r.getMessage() for r in caplog.records if "is behind by" in r.getMessage()]
    assert line.startswith("group 'late' on topic 'topic' is behind by ")


def test_entries_kept_by_a_window_are_no_stall(real_redis: redis.Redis, caplog: pytest.LogCaptureFixture) -> None:
    push_all(real_redis, "topic", range(3))

    @outlet(topics="topic", group="group", stall_after="100ms", run_for="800ms")
    def windows(source: Stream) -> None:
        source.sliding_window(3).sink(lambda _: None)

    windows.fn()
    assert len(pending(real_redis)) == 2
    assert "no progress" not in caplog.text


def test_deleted_report_is_created_anew(
    real_redis: redis.Redis,
    client: SyncPrefectClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    stop_run: Callable[[], None],
) -> None:
    monkeypatch.setattr(outlet_report, "_SOON", 0.1)
    deleted: list[str] = []

    @outlet(topics="topic", group="group", run_for="90s")
    def reported(source: Stream) -> Stream:
        return source.map(lambda e: e["n"])

    def delete_it() -> None:
        def found() -> list[str]:
            push_all(real_redis, "topic", range(1))  # the report has changed
            return [each["id"] for each in artifacts(client, "outlet-reported-group")]

        wait_until(found, "a report")
        deleted.extend(found())
        client.request("DELETE", "/artifacts/{id}", path_params={"id": deleted[0]})
        wait_until(found, "another report")
        stop_run()

    helper = threading.Thread(target=delete_it)
    helper.start()
    reported()
    helper.join()
    [artifact] = artifacts(client, "outlet-reported-group")
    assert artifact["id"] not in deleted
    assert "report failed" not in caplog.text


@pytest.mark.parametrize("how", ["refuses", "hangs"])
def test_a_dead_prefect_server_holds_up_neither_the_stream_nor_its_end(
    real_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    push_all(real_redis, "topic", range(50))
    seen: list[float] = []
    monkeypatch.setattr(outlets, "await_server", lambda log: True)

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = refusing_port() if how == "refuses" else silent.getsockname()[1]
        dead = SyncPrefectClient(f"http://127.0.0.1:{port}/api", httpx_settings={"timeout": prefect_api.PATIENCE})
        monkeypatch.setattr(prefect_api, "get_client", lambda **_: dead)

        @outlet(topics="topic", group="group", until="now")
        def stream(source: Stream) -> None:
            source.rate_limit(0.01).sink(lambda _: seen.append(time.monotonic()))

        began = time.monotonic()
        stream()
    assert len(seen) == 50
    assert max(b - a for a, b in itertools.pairwise(seen)) < 2
    assert time.monotonic() - began < 20
