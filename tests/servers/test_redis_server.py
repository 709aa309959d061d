"""Redis as a child process: start, stop, and death."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from redis import Redis

from deployments.servers.redis_binary import find_redis_server
from deployments.servers.redis_server import RedisServer
from tasks.errors import SettingsError, UnavailableError
from tests.support.waiting import wait_until


def _client(server: RedisServer) -> Redis:
    return Redis.from_url(server.url, protocol=2)


def test_it_listens_on_a_socket_of_this_user_and_nowhere_else(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "r") as server:
        assert server.pid is not None
        assert psutil.Process(server.pid).net_connections("inet") == []
        assert stat.S_IMODE((tmp_path / "r").stat().st_mode) == 0o700
        assert stat.S_IMODE(server.socket.stat().st_mode) == 0o700


def test_entries_survive_a_killed_server(tmp_path: Path) -> None:
    server = RedisServer(tmp_path).start()
    with _client(server) as client:
        ids = [client.xadd("market", {"n": n}) for n in range(100)]
        # On a busy disk, the server writes up to two seconds later, once a sync has ended.
        wait_until(lambda: client.info("persistence")["aof_buffer_length"] == 0, "its append-only file")
    server.kill()
    assert server.socket.exists()  # left behind by a crash
    with RedisServer(tmp_path) as again, _client(again) as client:
        assert [entry_id for entry_id, _ in client.xrange("market")] == ids


def test_stop_removes_the_socket_and_a_second_stop_does_nothing(tmp_path: Path) -> None:
    server = RedisServer(tmp_path).start()
    server.stop()
    assert not server.socket.exists()
    assert not server.running
    server.stop()


def test_a_server_that_hangs_is_killed(tmp_path: Path) -> None:
    server = RedisServer(tmp_path).start()
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    server.stop(grace=0.2)
    assert not psutil.pid_exists(server.pid)


def test_a_second_server_on_the_same_socket_is_refused(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as first:
        with pytest.raises(UnavailableError, match="another Redis answers"):
            RedisServer(tmp_path).start()
        with _client(first) as client:
            assert client.ping()


def test_a_start_that_fails_quotes_the_log(tmp_path: Path) -> None:
    if find_redis_server().version >= (7,):
        (tmp_path / "appendonlydir").write_text("in the way of the folder of the same name")
    else:
        (tmp_path / "appendonly.aof").mkdir()  # it occupies the name of the file
    with pytest.raises(UnavailableError, match=r"ended at its start.*(appendonly|append-only)"):
        RedisServer(tmp_path).start()
    assert not (tmp_path / "server").exists()  # it has written nothing that another server cannot read


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tie a child to its parent")
def test_it_does_not_outlive_a_killed_supervisor(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from deployments.servers.redis_server import RedisServer\n"
        "print(RedisServer(Path(sys.argv[1])).start().pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        child = psutil.Process(int(supervisor.stdout.readline()))
        supervisor.kill()
    child.wait(timeout=10)


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(SettingsError, match="folder of this user"):
        RedisServer(tmp_path).start()
