"""The example of docs/cursors.md against an API with pages, ETags, limits and failures."""

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tasks import Cursor, RetryLater
from tests.support.plain import ROOT


class Api(BaseHTTPRequestHandler):
    """Trades in pages of two; `failing` are the status codes of the next answers."""

    trades: ClassVar[int] = 5
    failing: ClassVar[list[int]] = []
    asked: ClassVar[list[tuple[str, str]]] = []

    def do_GET(self) -> None:
        after = int(parse_qs(urlsplit(self.path).query)["after"][0])
        etag = self.headers.get("If-None-Match", "")
        Api.asked.append((str(after), etag))
        page = [{"id": n} for n in range(after + 1, min(after + 2, Api.trades) + 1)]
        tag = f'"{Api.trades}"'
        if Api.failing and (status := Api.failing.pop(0)) != 200:
            self.answer(status, [], {"Retry-After": "7"})
        elif etag == tag:
            self.answer(304, None, {"ETag": tag})
        else:
            self.answer(200, page, {"ETag": tag})

    def answer(self, status: int, body: Any, headers: dict[str, str]) -> None:
        self.send_response(status)
        data = b"" if body is None else json.dumps(body).encode()
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def example() -> Iterator[Any]:
    """Return the pump of the page, which asks a server of this process."""
    text = (ROOT / "docs/cursors.md").read_text()
    [block] = [each for each in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "httpx" in each]
    Api.trades, Api.failing[:], Api.asked[:] = 5, [], []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    module: dict[str, Any] = {"__name__": "example"}
    exec(block.replace("https://api.example.com", f"http://127.0.0.1:{server.server_port}"), module)
    yield module["trades"].pump
    module["http"].close()
    server.shutdown()
    server.server_close()


def fetched(pump: Any, since: Cursor) -> list[int]:
    return [trade["id"] for trade in pump(since=since)]


def test_all_pages_are_fetched_and_then_only_what_is_new(example: Any) -> None:
    since = Cursor({"id": 0, "etag": ""})
    assert fetched(example, since) == [1, 2, 3, 4, 5]
    assert since.value == {"id": 5, "etag": '"5"'}
    assert fetched(example, since) == []
    assert Api.asked[-1] == ("5", '"5"')
    Api.trades = 6
    assert fetched(example, since) == [6]


def test_an_api_that_is_busy_or_fails_costs_the_call_and_moves_no_stored_cursor(example: Any) -> None:
    stored = {"id": 0, "etag": ""}
    Api.failing[:] = [200, 429]
    with pytest.raises(RetryLater) as asked:
        example(since=Cursor(dict(stored)))
    assert asked.value.seconds == 7
    Api.failing[:] = [200, 500]
    with pytest.raises(httpx.HTTPStatusError):
        example(since=Cursor(dict(stored)))
    assert fetched(example, Cursor(dict(stored))) == [1, 2, 3, 4, 5]
