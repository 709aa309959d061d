"""Posts to a real HTTP server that fails, is slow, asks for time, and leaves out keys that it knows."""

import email.utils
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks import Delivery, RejectedError, RetryLater, SettingsError, UnavailableError
from tasks.sinks.http_post import HttpPost
from tasks.testing import Bench


class Server(ThreadingHTTPServer):
    """Answers as planned, and takes each idempotency key once.

    plan      for each request: a status, 'slow', 'lost' (taken, but not answered) or a pair of a status and a Retry-After; then 200
    taken     the bodies, by key
    refused   the keys that got a 400
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan: list[Any] = []
        self.requests: list[str] = []
        self.taken: dict[str, Any] = {}
        self.refused: set[str] = set()
        self.headers: list[dict[str, str]] = []
        self.release = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook?token=secret"

    def handle_error(self, request: Any, client_address: Any) -> None:  # clients hang up
        pass


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = self.headers["Idempotency-Key"]
        self.server.requests.append(key)
        self.server.headers.append(dict(self.headers))
        answer = self.server.plan.pop(0) if self.server.plan else 200
        if answer == "slow":
            self.server.release.wait(30)
        if answer in (200, "slow", "lost"):
            self.server.taken.setdefault(key, body)
        if answer == 400:
            self.server.refused.add(key)
        if answer == "lost":
            self.close_connection = True
            self.connection.close()
            return
        status, retry_after = answer if isinstance(answer, tuple) else (answer if answer != "slow" else 200, None)
        self.send_response(status)
        if retry_after is not None:
            self.send_header("Retry-After", retry_after)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    yield from serving()


@pytest.fixture(scope="module")
def lasting_server() -> Iterator[Server]:
    yield from serving()


def serving() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.release.set()
        server.shutdown()
        thread.join()


def post(server: Server, value: Any = 1, **options: Any) -> None:
    sink = HttpPost(server.url, **options)
    try:
        sink.write([Delivery("topic/1-0", value)])
    finally:
        sink.close()


@given(
    plan=st.lists(st.sampled_from([200, 200, 500, 503, (429, "2"), (503, "1"), "lost", 408, 400]), max_size=14),
    crash=st.integers(0, 5),
)
@example(plan=[200, 500, 400], crash=3)
@settings(max_examples=8)
def test_each_delivery_is_taken_once_in_order_or_refused(lasting_server: Server, plan: list[Any], crash: int) -> None:
    server = lasting_server
    server.plan, server.requests, server.taken, server.refused = list(plan), [], {}, set()
    build = lambda source: source.pluck("n").to_sink(HttpPost(server.url), retry="1s, 2s, 3s, 1h", hold=True)
    with Bench(build) as bench:
        bench.push(*({"n": n} for n in range(6)))
        bench.crash(after=crash)
        bench.drain()
        bench.stop()
        refused = [letter.entry["n"] for letter in bench.dead]  # type: ignore[call-overload]
        assert bench.pending == []
    assert len(refused) <= plan.count(400)
    # One whose answer was lost may be refused when it comes again: it is taken, and a letter.
    assert set(server.taken.values()) | set(refused) == set(range(6))
    # One that was refused just before the crash has no letter yet: it comes again, behind later ones, and may be taken then.
    in_order = [n for key, n in server.taken.items() if key not in server.refused]
    assert in_order == sorted(in_order)
    assert all(key.startswith("topic/") for key in server.requests)


def test_result_of_a_window_is_posted_with_its_times_as_text(server: Server) -> None:
    build = lambda s: s.time_window("1s", key="k").agg(most=("n", "max")).to_sink(HttpPost(server.url))
    with Bench(build) as bench:
        bench.push({"k": "a", "n": 1})
        bench.drain()
    [body] = server.taken.values()
    assert (body["k"], body["most"]) == ("a", 1)
    assert datetime.fromisoformat(body["end"]) - datetime.fromisoformat(body["start"]) == timedelta(seconds=1)
    post(server, {"days": [date(2026, 1, 1)], "n": None})
    assert server.taken["topic/1-0"] == {"days": ["2026-01-01"], "n": None}


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503])
def test_status_that_may_pass_is_worth_another_attempt(server: Server, status: int) -> None:
    server.plan = [status]
    with pytest.raises(UnavailableError, match=f"got status {status}$"):
        post(server)


@pytest.mark.parametrize("status", [301, 400, 401, 404, 413, 422])
def test_status_that_refuses_the_element_is_final(server: Server, status: int) -> None:
    server.plan = [status]
    with pytest.raises(RejectedError, match=f"got status {status}, which refuses it for good"):
        post(server)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("shape", [str, lambda wait: email.utils.formatdate(time.time() + wait, usegmt=True)])
def test_server_that_asks_for_time_gets_it(server: Server, status: int, shape: Callable[[int], str]) -> None:
    server.plan = [(status, shape(3_600))]
    with pytest.raises(RetryLater) as asked:
        post(server)
    assert 3_500 < asked.value.seconds <= 3_600


@pytest.mark.parametrize("text", ["soon", "-1", "9" * 5_000, ""])
def test_unreadable_retry_after_counts_as_none(server: Server, text: str) -> None:
    server.plan = [(429, text)]
    with pytest.raises(UnavailableError, match="got status 429$"):
        post(server)


def test_slow_answer_is_given_up_and_the_error_shows_no_address(server: Server) -> None:
    server.plan = ["slow"]
    with pytest.raises(UnavailableError, match=r"within 0.05 s, got none \(ReadTimeout\)") as caught:
        post(server, timeout="50ms")
    assert "secret" not in repr(caught.value)


def test_lost_connection_is_worth_another_attempt_that_adds_nothing(server: Server) -> None:
    server.plan = ["lost"]
    with pytest.raises(UnavailableError, match="got none"):
        post(server)
    post(server)
    assert server.taken == {"topic/1-0": 1}
    assert server.requests == ["topic/1-0"] * 2


def test_server_that_is_away_is_worth_another_attempt() -> None:
    with pytest.raises(UnavailableError, match="ConnectError"):
        HttpPost("http://127.0.0.1:1/").write([Delivery("topic/1-0", 1)])


def test_headers_and_body_are_those_given(server: Server) -> None:
    post(server, {"a": 1}, headers={"Authorization": "Bearer x"})
    assert server.taken == {"topic/1-0": {"a": 1}}
    assert server.headers[0].items() >= {"Authorization": "Bearer x", "Content-Type": "application/json"}.items()
    post(server, "ignored", body=lambda _: b"[2]")


def test_element_that_json_cannot_hold_is_refused(server: Server) -> None:
    with pytest.raises(RejectedError, match="expected an element that JSON can hold"):
        post(server, object())


@pytest.mark.parametrize("url", ["ftp://host", "host", "", "http://"])
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="^HttpPost: expected an address that begins with http"):
        HttpPost(url)
