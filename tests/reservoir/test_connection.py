"""Connections: an unusable server or address is refused with one sentence that names the remedy."""

import contextlib
import os
import socketserver
import tempfile
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.servers.redis_server import RedisServer
from tasks import SettingsError, UnavailableError, settings
from tasks.reservoir.connection import connect
from tasks.settings import local_socket, redis_url, socket_url, without_password


class Answers(socketserver.StreamRequestHandler):
    """A server with one fixed reply to INFO, and OK for all other commands."""

    info = b""

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the client closes as soon as it has read enough
            self._answer()

    def _answer(self) -> None:
        while head := self.rfile.readline():
            words = []
            for _ in range(int(head[1:])):
                length = int(self.rfile.readline()[1:])
                words.append(self.rfile.read(length + 2)[:-2])
            bulk = b"$%d\r\n%s\r\n" % (len(self.info), self.info)
            if self.info.startswith((b"-", b"HTTP")):
                bulk = self.info + b"\r\n"
            self.wfile.write(bulk if words[0].upper() == b"INFO" else b"+OK\r\n")


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    handler = type("Handler", (Answers,), {"info": request.param})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as tcp:
        tcp.daemon_threads = True
        threading.Thread(target=tcp.serve_forever, daemon=True).start()
        yield f"redis://127.0.0.1:{tcp.server_address[1]}/0"
        tcp.shutdown()


@pytest.mark.parametrize("server", [b"redis_version:6.0.16\r\nredis_mode:standalone\r\n"], indirect=True)
def test_redis_older_than_6_2_is_refused_with_its_version(server: str) -> None:
    with pytest.raises(SettingsError, match=r"expected Redis or Valkey 6\.2 or later at .*, got 6\.0\.16; upgrade"):
        connect(server)


@pytest.mark.parametrize(
    "server",
    [
        b"redis_version:7.0.15\r\nredis_mode:cluster\r\n",
        b"redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2\r\nserver_mode:cluster\r\n",
    ],
    indirect=True,
)
def test_cluster_is_refused(server: str) -> None:
    with pytest.raises(SettingsError, match="is a cluster.*use a single server"):
        connect(server)


@pytest.mark.parametrize("server", [b"-NOAUTH Authentication required."], indirect=True)
def test_missing_password_is_named_in_the_error(server: str) -> None:
    with pytest.raises(UnavailableError, match="refuses the user or password; check SLUICE_REDIS_URL"):
        connect(server)


@pytest.mark.parametrize(
    ("server", "text"),
    [
        (b"-ERR DB index is out of range", r"refuses to be used \(DB index is out of range\); check SLUICE_REDIS_URL"),
        (b"-NOPERM this user has no permissions", r"does not let this user run INFO"),
        (b"HTTP/1.1 400 Bad Request", "answers, but not as a Redis does; check host and port"),
    ],
    indirect=["server"],
)
def test_error_distinguishes_unusable_servers_from_silent_ones(server: str, text: str) -> None:
    with pytest.raises(UnavailableError, match=text) as raised:
        connect(server, retries=0).ping()
    assert "does not answer" not in str(raised.value)


def all_of(error: BaseException) -> str:
    """Return the traceback of an error and its causes, without lines of code, which contain the URL here."""
    shown = traceback.TracebackException.from_exception(error)
    for each in (shown, shown.__cause__, shown.__context__):
        if each:
            each.stack.clear()
    return "".join(shown.format())


@pytest.mark.parametrize(
    ("rest", "text"),
    [
        (":pa/ss@host:6379/0", "write special characters as"),
        (":hunter2@host:6379/0?no_such_option=1", "got one redis-py cannot use"),
        (":hunter2@host:6379/one", "expected a database number"),
        (":hunter2/x@127.0.0.1/0", "write special characters as"),
        (":hunter2#x@127.0.0.1/0", "write special characters as"),
        ("user:hunter2", "got one redis-py cannot use"),
        (":hunter2@[127.0.0.1/0", "got one redis-py cannot use"),
    ],
)
def test_refusal_of_an_address_does_not_repeat_its_password(rest: str, text: str) -> None:
    with pytest.raises(SettingsError, match=text) as raised:
        connect(f"redis://{rest}", retries=0)
    shown = all_of(raised.value)
    assert "hunter2" not in shown
    assert "pa/" not in shown


def test_part_of_a_password_that_looks_like_a_host_is_not_repeated() -> None:
    with pytest.raises(UnavailableError, match="Redis at redis:// does not answer") as raised:
        connect("redis://hunter2.invalid:1?x@127.0.0.1/0", retries=0)
    assert "hunter2" not in all_of(raised.value)


@pytest.mark.parametrize("url", ["user:hunter2@host:6379/0", ":hunter2://x@host:6379/0"])
def test_refusal_of_an_address_without_a_scheme_does_not_repeat_it(url: str) -> None:
    with pytest.raises(SettingsError, match="got one without a scheme") as raised:
        connect(url)
    assert "hunter2" not in all_of(raised.value)


@pytest.mark.parametrize(
    "option",
    [
        "protocol=3",
        "decode_responses=true",
        "encoding=utf-16",
        "encoding_errors=ignore",
        "legacy_responses=false",
        "socket_timeout=0.001",
        "socket_connect_timeout=60",
        "retry=3",
        "retry_on_timeout=true",
        "retry_on_error=x",
    ],
)
def test_address_with_an_option_that_sluice_sets_itself_is_refused(redis_server: RedisServer, option: str) -> None:
    name = option.partition("=")[0]
    with pytest.raises(SettingsError, match=f"without {name}, which is Sluice's own .*; leave it out"):
        connect(f"{redis_server.url}?db=0&{option}")


def test_other_redis_py_options_in_an_address_are_used(redis_server: RedisServer) -> None:
    client = connect(f"{redis_server.url}?db=0&client_name=mine&health_check_interval=10")
    assert client.client_getname() == "mine"
    client.close()


def test_query_of_an_address_may_contain_slashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_REDIS_URL", "redis://elsewhere:6379/0?password=a@b/c")
    assert redis_url() == "redis://elsewhere:6379/0?password=a@b/c"


@pytest.mark.parametrize("server", [b"redis_version:6.2.0\r\nredis_mode:standalone\r\n"], indirect=True)
def test_oldest_supported_version_is_accepted(server: str) -> None:
    connect(server).close()


def test_address_in_the_environment_takes_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_REDIS_URL", "redis://elsewhere:6379/0")
    assert redis_url() == "redis://elsewhere:6379/0"


def test_missing_address_names_the_variable_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.delenv("SLUICE_REDIS_URL", raising=False)
    monkeypatch.setenv("SLUICE_STATE_DIR", str(tmp_path))
    with pytest.raises(SettingsError, match=r"run `make up`, or set SLUICE_REDIS_URL=redis://"):
        redis_url()


def test_socket_with_a_too_long_path_moves_to_the_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_STATE_DIR", "/" + "d" * 120)
    assert len(str(local_socket())) <= 107


@pytest.mark.parametrize(("mode", "is_used"), [(0o700, True), (0o755, True), (0o777, False), (0o770, False)])
def test_socket_in_the_temporary_folder_is_used_only_from_a_private_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, is_used: bool
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("SLUICE_STATE_DIR", "/" + "d" * 120)
    monkeypatch.delenv("SLUICE_REDIS_URL", raising=False)
    local_socket().parent.mkdir()
    local_socket().parent.chmod(mode)
    local_socket().touch()
    if is_used:
        assert redis_url() == socket_url(local_socket())
    else:
        with pytest.raises(SettingsError, match="it was not used; remove"):
            redis_url()


def test_socket_of_another_user_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("SLUICE_STATE_DIR", "/" + "d" * 120)
    monkeypatch.delenv("SLUICE_REDIS_URL", raising=False)
    local_socket().parent.mkdir(mode=0o700)
    local_socket().touch()
    path, me = local_socket(), os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: me + 1)
    monkeypatch.setattr(settings, "local_socket", lambda: path)
    with pytest.raises(SettingsError, match="another user"):
        redis_url()


@pytest.mark.parametrize("name", ["c#", "what?", "%41", "a b", "u@host", "用户", "tab\t", "\udcff"])
def test_local_redis_is_reachable_under_any_folder_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("SLUICE_STATE_DIR", str(tmp_path / name))
    monkeypatch.delenv("SLUICE_REDIS_URL", raising=False)
    with RedisServer(local_socket().parent, socket=local_socket()) as server:
        assert redis_url() == server.url
        connect(server.url).close()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:secret@host:6379/1?password=secret", "redis://host:6379/1"),
        ("redis://127.0.0.1:6379?password=secret", "redis://127.0.0.1:6379"),
        ("redis://127.0.0.1:6379?password=se@cret", "redis://"),
        ("redis://:abc/se?cr@et@host:6379/0", "redis://"),
        ("redis://:se@cret@host:6379/0", "redis://host:6379/0"),
        ("redis://user:secret", "redis://"),
        ("unix://secret@/run/redis.sock?db=1&password=secret", "unix:///run/redis.sock"),
        ("unix:///run/redis.sock?db=0&password=se@cret", "unix:///run/redis.sock"),
        ("unix:///se/cret@/run/redis.sock", "unix://"),
        ("user:secret@host:4200/api", "host:4200/api"),
        (":secret://x@host:6379/0", ""),
    ],
)
def test_address_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert without_password(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "redis://host",
        "redis://host:6379/0",
        "rediss://[::1]:6380/0",
        "unix:///run/redis.sock",
        "unix:///home/u@host/redis.sock",
        "http://127.0.0.1:4200/api",
        "127.0.0.1:4200/api",
    ],
)
def test_address_without_secrets_is_shown_unchanged(url: str) -> None:
    assert without_password(url) == url


nasty = st.text("@:/?#%&=[]+ \\\"'ab1\n\u4e2d", min_size=4).flatmap(
    lambda text: st.sampled_from([text, quote(text, safe="")])
)


@pytest.mark.parametrize("bare", ["redis://host:6379/0", "unix:///run/redis.sock", "unix:///home/u@host/redis.sock"])
@pytest.mark.parametrize(
    ("userinfo", "query"),
    [
        ("user:{}@", ""),
        (":{}@", ""),
        ("{}@", ""),
        ("{}:secret@", "?db=0"),
        ("", "?password={}"),
        ("", "?db=0&username={}&password={}"),
        ("user:{}@", "?password={}"),
    ],
)
@given(password=nasty)
def test_no_password_appears_in_a_displayed_address(bare: str, userinfo: str, query: str, password: str) -> None:
    scheme, _, rest = bare.partition("://")
    url = f"{scheme}://{userinfo}{rest}{query}".replace("{}", password)
    assert without_password(url) in (bare, f"{scheme}://")
