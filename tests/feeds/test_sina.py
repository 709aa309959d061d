"""The live feed reads quotes through easyquotation from a server with Sina's format."""

import builtins
import contextlib
import multiprocessing.pool
import threading
from collections.abc import Callable, Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.pool import ThreadPool

import pandas as pd
import pytest

from tasks.errors import SettingsError, UnavailableError
from tasks.feeds import sina
from tasks.feeds.exchange import Exchange
from tasks.reservoir.entry import Entry

pytest.importorskip("easyquotation", reason="the extra `quotes` is not installed")

SUSPENDED = "万科A,0.000,7.010,0.000,0.000,0.000,0.000,0.000,0,0.000" + ",0,0.000" * 10 + ",2026-11-23,15:00:00,03"


@cache
def market() -> tuple[pd.DataFrame, dict[str, str]]:
    """Return the quotes of a simulated exchange, and the same quotes in Sina's format by code."""
    frame = Exchange(7).snapshot(1_795_500_000)
    return frame, {code: ",".join(map(str, row)) for code, *row in frame.itertuples()}


class Stub(ThreadingHTTPServer):
    """Answers requests with quotes of a simulated exchange, unless a test replaces them.

    lines    replacements for the text between a code's quotes
    asked    the codes of each request
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.frame, self.listed = market()
        self.lines: dict[str, str] = {}
        self.asked: list[list[str]] = []
        self.referers: set[str | None] = set()
        self.answer: Callable[[], tuple[int, bytes]] | None = None
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def line(self, listed: str) -> str:
        code = listed[2:]
        if code in self.lines:
            return f'var hq_str_{listed}="{self.lines[code]}";\n'
        if code not in self.listed:
            return f'var hq_str_{listed}="";\n'
        return f'var hq_str_{listed}="{self.listed[code]},00,";\n'


class Handler(BaseHTTPRequestHandler):
    server: Stub

    def do_GET(self) -> None:
        listed = self.path.partition("&list=")[2].split(",")
        self.server.asked.append(listed)
        self.server.referers.add(self.headers["Referer"])
        status, body = 200, "".join(self.server.line(one) for one in listed).encode("gb18030")
        if self.server.answer:
            status, body = self.server.answer()
        self.send_response(status)
        self.send_header("Content-Type", "application/javascript")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # a client that timed out takes no answer
            super().handle()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Log nothing."""


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Stub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_live_quotes_have_the_columns_types_and_values_of_the_simulated_exchange(stub: Stub) -> None:
    codes = ["600000", "000001", "300003", "688005", "920001"]
    frame = sina.fetch(codes=codes, url=stub.url)
    pd.testing.assert_frame_equal(frame, stub.frame.loc[codes])


def test_sina_is_asked_with_the_referer_it_wants_and_the_board_before_each_code(stub: Stub) -> None:
    sina.fetch(codes=["600000", "000001", "920001"], url=stub.url)
    assert stub.asked == [["sh600000", "sz000001", "bj920001"]]
    assert stub.referers == {"http://finance.sina.com.cn/"}


def test_sina_reads_the_whole_market_in_requests_of_800_codes(stub: Stub) -> None:
    frame = sina.fetch(url=stub.url)
    asked = [code for codes in stub.asked for code in codes]
    assert len(asked) == len(set(asked)) > 5000
    assert max(map(len, stub.asked)) == 800
    assert not any(code.startswith("sh000") for code in asked), "indices, whose codes are those of shares too"
    assert frame.index.is_unique
    assert set(frame.index) == {code[2:] for code in asked} & set(stub.frame.index)


@pytest.mark.parametrize("board", ["sh", "sz", "bj"])
def test_a_board_is_asked_for_its_own_codes_only(stub: Stub, board: str) -> None:
    frame = sina.fetch(board, url=stub.url)
    assert len(frame)
    assert {code[:2] for codes in stub.asked for code in codes} == {board}


def test_a_suspended_code_is_a_row_without_a_price(stub: Stub) -> None:
    stub.lines["000002"] = SUSPENDED
    row = sina.fetch(codes=["600000", "000002"], url=stub.url).loc["000002"]
    assert (row["name"], row["close"], row["now"], row["bid1"]) == ("万科A", 7.01, 0.0, 0.0)


@pytest.mark.parametrize(
    "line", ["", "FAILED", "万科A,7.0,7.1", SUSPENDED.replace("7.010", "-"), SUSPENDED.replace("7.010", "")]
)
def test_an_unlisted_or_malformed_quote_is_left_out_and_costs_no_other(stub: Stub, line: str) -> None:
    stub.lines["000002"] = line
    assert list(sina.fetch(codes=["600000", "000002", "000001"], url=stub.url).index) == ["600000", "000001"]


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        ((403, b"Forbidden"), "HTTP 403"),
        ((200, b"<html>Kinsoku jikou desu!</html>"), "without any"),
        ((200, b""), "without any"),
        ((200, f'var hq_str_sz000002="{SUSPENDED.replace("7.010", "7.0.1")}";'.encode("gbk")), "ValueError"),
    ],
)
def test_answer_without_quotes_is_an_error(stub: Stub, answer: tuple[int, bytes], match: str) -> None:
    stub.answer = lambda: answer
    with pytest.raises(UnavailableError, match=match):
        sina.fetch(codes=["000002"], url=stub.url)


def test_a_server_that_never_answers_is_given_up(stub: Stub) -> None:
    release = threading.Event()
    stub.answer = lambda: (200 if release.wait(30) else 500, b"")
    try:
        with pytest.raises(UnavailableError, match="ReadTimeout"):
            sina.fetch(codes=["600000"], url=stub.url, timeout=0.05)
    finally:
        release.set()


def test_fetch_makes_no_pool_that_can_block_garbage_collection(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    monkeypatch.setattr(multiprocessing.pool, "ThreadPool", lambda *args: made.append(args) or ThreadPool(*args))
    sina.fetch(codes=["600000"], url=stub.url)
    assert made == []


def test_no_network_is_an_error_that_names_the_way_out(stub: Stub) -> None:
    stub.server_close()
    with pytest.raises(UnavailableError, match="feed='simulated'"):
        sina.fetch(codes=["600000"], url=stub.url)


@pytest.mark.parametrize(
    "wrong",
    [
        {"board": "nyse"},
        {"codes": ["60000"]},
        {"codes": ["sh600000"]},
        {"codes": []},
        {"board": "bj", "codes": ["600000"]},
    ],
)
def test_a_wrong_board_or_code_is_refused_before_anyone_is_asked(stub: Stub, wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="expected"):
        sina.fetch(**wrong, url=stub.url)  # type: ignore[arg-type]
    assert stub.asked == []


def test_error_names_the_missing_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("easyquotation"):
            raise ImportError(name)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SettingsError, match=r"pip install -e '\.\[quotes\]'"):
        sina.fetch()


def test_live_quotes_go_through_the_same_pipeline_as_simulated_ones(stub: Stub) -> None:
    from streamz import Stream

    from flows.market import movers

    source = Stream()
    results = movers.build(source, prefix="60", seed=1).sink_to_list()
    source.emit(Entry({"quotes": sina.fetch("sh", url=stub.url)}, topic="market", id="1-0"))
    assert len(results[0]) == 10
