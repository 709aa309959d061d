"""Access to a Prefect server around proxies, with slashes, certificates and keys; no message shows a password."""

import http.server
import io
import os
import ssl
import stat
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prefect.settings import PREFECT_API_SSL_CERT_FILE, PREFECT_API_URL, temporary_settings
from rich.console import Console

from deployments import cli
from deployments.servers.ledger import Ledger
from deployments.servers.prefect_server import answers, find_server
from deployments.stack import up as local
from deployments.stack.setting import Setting
from deployments.stack.stack import Stack
from tasks import UnavailableError
from tasks.settings import REDIS_URL

ROOT = Path(__file__).resolve().parents[2]


class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()
        self.wfile.write(b"true")

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(autouse=True)
def no_proxy_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib.request, "_opener", None)  # urllib creates it once per process


@pytest.fixture
def url() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), Healthy) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()


@pytest.mark.parametrize("given", [{}, {"NO_PROXY": "corp.example"}, {"no_proxy": "corp.example"}])
def test_addresses_of_this_machine_bypass_the_proxy(
    url: str, given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "")  # so that the command's changes are undone, too
        monkeypatch.delenv(name)
    for name, value in {"http_proxy": "http://127.0.0.1:1", **given}.items():
        monkeypatch.setenv(name, value)
    assert not answers(url)
    cli.leave_out_proxies()
    assert answers(url)
    assert httpx.get(f"{url}/health").status_code == 200
    hosts = {"127.0.0.1", "localhost", *given.values()}
    assert set(os.environ["no_proxy"].split(",")) == set(os.environ["NO_PROXY"].split(",")) == hosts


def test_a_slash_at_the_end_of_the_address_changes_nothing(url: str) -> None:
    assert answers(f"{url}/")


def test_a_server_is_asked_with_the_certificate_that_prefect_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *names, "-keyout", "key", "-out", "cert"]
    subprocess.run(made, cwd=tmp_path, check=True, capture_output=True, timeout=240)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    with http.server.HTTPServer(("127.0.0.1", 0), Healthy) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"https://localhost:{server.server_port}/api"
        monkeypatch.setenv("PREFECT_API_URL", url)
        with temporary_settings({PREFECT_API_URL: url, PREFECT_API_SSL_CERT_FILE: str(tmp_path / "cert")}):
            assert find_server(Ledger(tmp_path)) == url
        with temporary_settings({PREFECT_API_URL: url}), pytest.raises(UnavailableError, match="no Prefect server"):
            find_server(Ledger(tmp_path))
        server.shutdown()


def test_up_shows_no_password_and_notes_one_only_for_its_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = "http://user:hunter2@prefect.example:4200/api"
    monkeypatch.setenv("PREFECT_API_URL", address)
    monkeypatch.setenv(REDIS_URL, "redis://user:hunter2@redis.example:6379/0")
    ledger, output = Ledger(tmp_path / "state"), io.StringIO()
    with ledger.held():
        stack = Stack(Setting.of(ROOT, ledger.folder, port=4200), ledger, say=lambda _: None)
        local._welcome(stack, Console(file=output, width=200), 1.0, local._addresses(stack, metrics="off"))
        assert "Prefect UI  http://prefect.example:4200\n" in output.getvalue()
        assert "hunter2" not in output.getvalue()
        ledger.record(address, [])
    assert ledger.api_url() == address
    assert stat.S_IMODE(ledger.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((ledger.folder / "stack.json").stat().st_mode) == 0o600
