"""The login of the Prefect server: this user's programs find its secret, and others are refused."""

import asyncio
import base64
import json
import os
import stat
import subprocess
import sys
from http import HTTPStatus
from pathlib import Path

import httpx
import psutil
import pytest
from prefect.events import Event
from prefect.events.clients import get_events_client, get_events_subscriber
from prefect.events.filters import EventFilter, EventNameFilter
from websockets import Subprotocol
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from deployments.servers import login
from deployments.servers.ledger import Ledger
from deployments.servers.prefect_server import settings_of_other_server, settings_of_own_server
from tasks.errors import SettingsError
from tests.support.plain import ROOT, SECRET, Plain, clean_environment
from tests.support.waiting import wait_until

URL = "http://127.0.0.1:4299/api"
SAID = """
import json
from deployments.servers import login
login.keep_from_others()
from prefect.settings import get_current_settings
api = get_current_settings().api
print(json.dumps([str(api.url), api.auth_string.get_secret_value() if api.auth_string else ""]))
"""


@pytest.fixture(autouse=True)
def without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in os.environ if each.startswith(("PREFECT_API", "PREFECT_SERVER"))]:
        monkeypatch.delenv(name)


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


def in_prefect(folder: Path, **environment: str) -> list[str]:
    """Return the server's address and the secret that Prefect's settings have in a folder."""
    env = clean_environment(PREFECT_HOME=str(folder / "home"), PYTHONPATH=str(ROOT), **environment)
    done = subprocess.run([sys.executable, "-c", SAID], cwd=folder, env=env, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_the_secret_is_made_once_and_read_by_its_user_alone(tmp_path: Path) -> None:
    first = login.make_secret(tmp_path / "state")
    assert len(first) > 30
    assert login.make_secret(tmp_path / "state") == first == login.stored_secret(tmp_path / "state")
    assert login.make_secret(tmp_path / "other") != first
    assert mode(login.secret_file(tmp_path / "state")) == 0o600
    assert mode(tmp_path / "state") == 0o700


def test_a_secret_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    login.secret_file(tmp_path).write_text("mine")
    login.secret_file(tmp_path).chmod(0o644)
    assert login.make_secret(tmp_path) == "mine"
    assert mode(login.secret_file(tmp_path)) == 0o600


def test_the_users_own_secret_is_taken_and_found_by_others_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "admin:pass")
    env = settings_of_own_server(tmp_path, 4299, secret=login.make_secret(tmp_path))
    assert env["PREFECT_SERVER_API_AUTH_STRING"] == env["PREFECT_API_AUTH_STRING"] == "admin:pass"
    assert login.stored_secret(tmp_path) == "admin:pass"


def test_an_unreadable_secret_is_reported_in_one_sentence(tmp_path: Path) -> None:
    login.secret_file(tmp_path).mkdir()
    with pytest.raises(SettingsError, match="remove it, and start `sluice up` again"):
        login.stored_secret(tmp_path)


def test_prefect_in_the_checkout_finds_the_server_and_its_secret_while_it_runs(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.prefect.api]\nurl = "http://127.0.0.1:4200/api"\n')
    assert login.offer(tmp_path, tmp_path / ".sluice", URL, "se-cret")
    assert mode(tmp_path / "prefect.toml") == 0o600
    assert in_prefect(tmp_path) == [URL, "se-cret"]
    assert in_prefect(tmp_path, PREFECT_API_URL=URL) == [URL, "se-cret"]
    login.withdraw(tmp_path, tmp_path / ".sluice")
    assert in_prefect(tmp_path) == ["http://127.0.0.1:4200/api", ""]


def test_a_server_of_the_users_own_never_sees_the_secret(tmp_path: Path) -> None:
    login.offer(tmp_path, tmp_path / ".sluice", URL, "se-cret")
    other = "http://127.0.0.1:1/api"
    assert in_prefect(tmp_path, PREFECT_API_URL=other) == [other, ""]
    assert in_prefect(tmp_path, PREFECT_API_URL=other, PREFECT_API_AUTH_STRING="theirs") == [other, "theirs"]


def test_the_environment_of_another_server_is_as_the_user_has_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    env = settings_of_other_server()
    assert not [name for name in env if "AUTH_STRING" in name or "CSRF" in name or "CORS" in name]


def test_a_prefect_toml_of_the_users_own_stays(tmp_path: Path) -> None:
    mine = "[api]\nurl = 'http://127.0.0.1:1/api'\n"
    (tmp_path / "prefect.toml").write_text(mine)
    assert not login.offer(tmp_path, tmp_path / ".sluice", URL, "se-cret")
    login.withdraw(tmp_path, tmp_path / ".sluice")
    assert (tmp_path / "prefect.toml").read_text() == mine


def test_a_stack_in_another_folder_leaves_the_checkout_alone(tmp_path: Path) -> None:
    assert not login.offer(tmp_path, tmp_path / "elsewhere", URL, "se-cret")
    assert not (tmp_path / "prefect.toml").exists()
    login.offer(tmp_path, tmp_path / ".sluice", URL, "se-cret")
    login.withdraw(tmp_path, tmp_path / "elsewhere")
    assert (tmp_path / "prefect.toml").exists()


def test_notes_of_an_older_stack_have_no_login(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text(json.dumps({"supervisor": 1, "api_url": URL, "processes": []}))
    assert not Ledger(tmp_path).has_login()
    Ledger(tmp_path).record(URL, [], has_login=True)
    assert Ledger(tmp_path).has_login()


def ask(plain: Plain, method: str, path: str, *, secret: str = "", **headers: str) -> httpx.Response:
    if secret:
        headers["Authorization"] = f"Basic {base64.b64encode(secret.encode()).decode()}"
    with httpx.Client(base_url=plain.env["PREFECT_API_URL"], trust_env=False) as client:
        return client.request(method, path, headers=headers, json={} if method == "POST" else None)


@pytest.mark.parametrize("secret", ["", "another"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/admin/settings"),
        ("POST", "/flow_runs/filter"),
        ("POST", "/block_documents/filter"),
        ("GET", "/csrf-token?client=x"),
    ],
)
def test_a_request_without_the_secret_is_refused(prefect_server: Plain, method: str, path: str, secret: str) -> None:
    client = {"Prefect-Csrf-Client": "x"}
    client["Prefect-Csrf-Token"] = ask(prefect_server, "GET", "/csrf-token?client=x", secret=SECRET).json()["token"]
    assert ask(prefect_server, method, path, secret=SECRET, **client).is_success
    assert ask(prefect_server, method, path, secret=secret, **client).status_code == HTTPStatus.UNAUTHORIZED


def test_a_page_of_another_origin_is_refused_even_where_it_knows_the_secret(prefect_server: Plain) -> None:
    there = {"Origin": "http://127.0.0.1:1", "Access-Control-Request-Method": "POST"}
    wanted = "authorization,content-type,prefect-csrf-token,prefect-csrf-client"
    asked = ask(prefect_server, "OPTIONS", "/flow_runs/filter", **there, **{"Access-Control-Request-Headers": wanted})
    assert asked.status_code == HTTPStatus.BAD_REQUEST
    read = ask(prefect_server, "GET", "/admin/version", secret=SECRET, Origin="http://127.0.0.1:1")
    assert "access-control-allow-origin" not in read.headers
    written = ask(prefect_server, "POST", "/flow_runs/filter", secret=SECRET, Origin="http://127.0.0.1:1")
    assert written.status_code == HTTPStatus.FORBIDDEN, "it has no token against forged requests"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_ui_is_let_in_by_either_name_of_this_machine(prefect_server: Plain, host: str) -> None:
    origin = f"http://{host}:{httpx.URL(prefect_server.env['PREFECT_API_URL']).port}"
    read = ask(prefect_server, "GET", "/admin/version", secret=SECRET, Origin=origin)
    assert read.status_code == HTTPStatus.OK
    assert read.headers["access-control-allow-origin"] == origin


@pytest.mark.parametrize("path", ["events/in", "events/out", "logs/out"])
def test_a_websocket_without_the_secret_is_closed(prefect_server: Plain, path: str) -> None:
    url = f"{prefect_server.env['PREFECT_API_URL'].replace('http', 'ws', 1)}/{path}"
    with connect(url, proxy=None, subprotocols=[Subprotocol("prefect")]) as socket:
        socket.send(json.dumps({"type": "auth", "token": "another"}))
        while True:  # the reply to the first message may come first
            try:
                assert "success" not in str(socket.recv(timeout=20))
            except ConnectionClosed:
                break


async def _through_websockets() -> str:
    wanted = EventFilter(event=EventNameFilter(name=["sluice.tests.login"]))
    async with get_events_subscriber(filter=wanted) as subscriber, get_events_client() as client:
        await client.emit(Event(event="sluice.tests.login", resource={"prefect.resource.id": "sluice.tests"}))
        return (await anext(subscriber)).event


@pytest.mark.usefixtures("prefect")
def test_events_come_and_go_through_websockets_with_the_secret() -> None:
    assert asyncio.run(asyncio.wait_for(_through_websockets(), 60)) == "sluice.tests.login"


def test_the_secret_is_on_no_command_line_and_in_no_log(prefect_server: Plain) -> None:
    assert not [each for each in psutil.process_iter(["cmdline"]) if SECRET in " ".join(each.info["cmdline"] or [])]
    assert prefect_server.server.pid
    wait_until(lambda: "127.0.0.1" in prefect_server.server.log.read_text(), "its log")
    for log in prefect_server.folder.glob("*.log"):
        assert SECRET not in log.read_text(errors="replace"), log
