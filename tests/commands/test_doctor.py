"""`sluice doctor` finds problems of real servers, and shows no secret."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from deployments.checks.findings import Finding
from deployments.checks.installation import check_install, check_names
from deployments.checks.redis_in_use import check_redis
from deployments.checks.secret_block import check_secret
from deployments.servers.child import Child
from deployments.servers.redis_binary import find_redis_server
from tasks.base.state_folder import STATE_DIR
from tasks.settings import REDIS_URL, SECRET_BLOCK
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
Found = dict[str, Finding]


@contextmanager
def running(folder: Path, *options: str) -> Iterator[str]:
    """Run a Redis with options of its own, and yield its address."""
    socket = folder / "r.sock"
    command = [
        str(find_redis_server().path),
        "--port",
        "0",
        "--unixsocket",
        str(socket),
        "--dir",
        str(folder),
        *options,
    ]
    server = Child("redis", command, log=folder / "redis.log", tied=True)
    server.start()
    try:
        wait_until(socket.exists, "Redis to listen")
        yield f"unix://{socket}"
    finally:
        server.kill()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    """Return a client of a Redis whose settings these tests may change."""
    with (
        running(tmp_path_factory.mktemp("doctor"), "--save", "") as url,
        redis.Redis.from_url(url, protocol=2) as client,
    ):
        yield client


@pytest.fixture
def look(server: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Found]:
    """Return a function that checks that Redis and returns the findings by their subject."""

    def found(user: str = "") -> Found:
        monkeypatch.setenv("SLUICE_REDIS_URL", f"unix://{user}{server.get_connection_kwargs()['path']}")
        return {each.check: each for each in check_redis()}

    return found


def text(finding: Finding) -> str:
    return f"{finding.level}: {finding.says}; {finding.do}"


def test_a_redis_that_keeps_its_data_and_evicts_nothing_is_fine(
    server: redis.Redis, look: Callable[..., Found]
) -> None:
    server.config_set("appendonly", "yes")
    found = look()
    assert {each.level for each in found.values()} == {"ok"}
    assert f"{find_redis_server()} " in found["Redis"].says
    assert " at unix:///" in found["Redis"].says
    assert "append-only file" in found["Redis data"].says
    assert server.dbsize() == 0, "nothing was written"


def test_persistence_that_would_lose_data_is_named(server: redis.Redis, look: Callable[..., Found]) -> None:
    server.config_set("appendonly", "no")
    assert text(look()["Redis data"]).startswith("fail: in memory only")
    server.config_set("save", "900 1")
    assert text(look()["Redis data"]).startswith("warn: in snapshots only (save 900 1)")
    assert "CONFIG SET appendonly yes" in look()["Redis data"].do
    server.config_set("save", "")


@pytest.mark.parametrize(
    ("policy", "level", "says"),
    [
        ("allkeys-lru", "fail", "it evicts topics"),
        ("volatile-ttl", "fail", "it evicts leases"),
        ("noeviction", "ok", "noeviction"),
    ],
)
def test_a_memory_limit_is_fine_only_if_nothing_is_evicted(
    policy: str, level: str, says: str, server: redis.Redis, look: Callable[..., Found]
) -> None:
    server.config_set("maxmemory", "1gb")
    server.config_set("maxmemory-policy", policy)
    finding = look()["Redis memory"]
    assert finding.level == level
    assert says in finding.says
    server.config_set("maxmemory", "0")
    server.config_set("maxmemory-policy", "noeviction")
    assert look()["Redis memory"].level == "ok"


def test_a_nearly_full_redis_is_a_finding(server: redis.Redis, look: Callable[..., Found]) -> None:
    server.config_set("maxmemory", int(server.info("memory")["used_memory"] * 1.05))
    assert text(look()["Redis memory"]).startswith("warn: ")
    server.config_set("maxmemory", "0")


def test_topics_that_cannot_be_read_are_named(server: redis.Redis, look: Callable[..., Found]) -> None:
    for topic in ("alpha", "beta"):
        server.xadd(topic, {"n": 1})
    server.set("sluice:spilled:alpha", "x")
    server.xgroup_create("alpha", "group", "0")
    assert text(look()["Redis topics"]) == (
        "warn: topic 'alpha' cannot be read: expected key 'sluice:spilled:alpha' to be a hash, got a string; rename or delete it"
    )
    server.flushall()
    assert "Redis topics" not in look()


def test_missing_rights_of_a_redis_user_are_named(server: redis.Redis, look: Callable[..., Found]) -> None:
    server.execute_command("ACL", "SETUSER", "reader", "on", ">hunter2", "~*", "+@all", "-config", "-@scripting")
    found = look("reader:hunter2@")
    assert text(found["Redis scripts"]).startswith("fail: refused: ")
    assert "EVALSHA" in found["Redis scripts"].do
    assert "does not tell whether it makes snapshots" in found["Redis data"].says
    server.execute_command("ACL", "SETUSER", "blind", "on", ">hunter2", "~*", "-@all")
    blind, wrong = look("blind:hunter2@"), look("reader:hunter3@")
    assert "does not let this user run INFO" in text(blind["Redis"])
    assert "refuses the user or password" in text(wrong["Redis"])
    assert "hunter" not in repr([found, blind, wrong])


def test_a_replica_and_a_cluster_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with running(tmp_path / "a", "--replicaof", "127.0.0.1", "1", "--replica-serve-stale-data", "yes") as replica:
        monkeypatch.setenv("SLUICE_REDIS_URL", replica)
        assert "fail: a replica, which takes no writes" in [text(each) for each in check_redis()][1]
    with running(tmp_path / "b", "--cluster-enabled", "yes") as cluster:
        monkeypatch.setenv("SLUICE_REDIS_URL", cluster)
        (finding,) = check_redis()
        assert "is a cluster" in text(finding)


def test_a_redis_that_is_not_there_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_REDIS_URL", f"unix://u:hunter2@{tmp_path}/none.sock")
    (finding,) = check_redis()
    assert "does not answer (No such file or directory)" in text(finding)
    assert "hunter2" not in text(finding)


@pytest.fixture
def with_secret(prefect: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], str]]:
    """Return a function that stores a value in the Secret block, if it gets one, and returns the findings; no Redis is set."""
    from prefect.blocks.system import Secret
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    monkeypatch.delenv(REDIS_URL, raising=False)
    monkeypatch.setenv(STATE_DIR, str(tmp_path))
    with get_client(sync_client=True) as client:

        def found(value: Any = None) -> str:
            with suppress(ObjectNotFound):
                client.delete_block_document(client.read_block_document_by_name(SECRET_BLOCK, "secret").id)
            if value is not None:
                Secret(value=value).save(SECRET_BLOCK)  # type: ignore[unused-coroutine]
            return text(check_secret(client))

        yield found
        found()


def test_the_secret_block_is_read_and_tried_but_never_shown(
    with_secret: Callable[..., str], server: redis.Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = server.get_connection_kwargs()["path"]
    server.execute_command("ACL", "SETUSER", "runs", "on", ">hunter2", "~*", "+@all")
    assert with_secret().startswith("ok: there is no 'sluice-redis-url'")
    good = with_secret(f"unix://runs:hunter2@{path}?db=3")
    assert good.startswith(
        f"ok: 'sluice-redis-url' names database 3 of Redis at unix://{path}, which answers; only runs read it"
    )
    for wrong, why in (
        ("runs:hunter2@redis.example", "expected an address like redis://HOST:6379/0"),
        ({"user": "runs", "password": "hunter2"}, "expected an address like redis://HOST:6379/0"),
        (f"unix://runs:hunter3@{path}", "refuses the user or password; check the Secret block 'sluice-redis-url'"),
        (f"unix://runs:hunter2@{tmp_path}/none.sock", "does not answer (No such file or directory)"),
    ):
        message = with_secret(wrong)
        assert message.startswith("fail: ")
        assert why in message
        assert "the Secret block 'sluice-redis-url'" in message
        assert "hunter" not in message

    monkeypatch.setenv(REDIS_URL, f"unix://{path}?db=3")  # the same database as another user
    assert with_secret(f"unix://runs:hunter2@{path}?db=3").startswith("ok: ")
    another = with_secret(f"unix://runs:hunter2@{path}")  # another database of the same server
    assert another.startswith("warn: ")
    assert f"names database 0 of Redis at unix://{path}, which answers; here it is database 3 of" in another


def project(folder: Path, dependencies: str, constraints: str = "", *, python: str = ">=3.11") -> Path:
    (folder / "pyproject.toml").write_text(
        f"[project]\nname='x'\nrequires-python='{python}'\ndependencies=[{dependencies}]\n"
    )
    (folder / "constraints.txt").write_text(constraints)
    return folder


def test_installed_versions_are_compared_with_the_tested_ones(tmp_path: Path) -> None:
    installed = {each.check: each for each in check_install(ROOT)}
    assert {each.level for each in installed.values()} == {"ok"}, installed

    wrong = list(check_install(project(tmp_path, "'redis>=99', 'no-such-package'", "streamz==0.0.1\nabsent==1\n")))
    python, packages, tested, *_ = map(text, wrong)
    assert python.startswith("ok: 3.")
    assert packages.startswith("fail: expected redis>=99 (got 8.")
    assert "no-such-package (got none)" in packages
    assert "warn: not those of constraints.txt: streamz 0.6.6 (tested: 0.0.1); " in tested

    old, *_ = check_install(project(tmp_path, "", python=">=3.99"))
    assert text(old).startswith("fail: expected >=3.99, got 3.")


def test_an_installation_from_a_wheel_is_checked_against_what_the_wheel_requires() -> None:
    installed = {each.check: each for each in check_install(None)}
    assert {each.level for each in installed.values()} == {"ok"}, installed
    assert " as Sluice requires them: prefect 3." in installed["packages"].says


def test_names_of_a_project_that_hide_those_of_sluice_are_found(tmp_path: Path) -> None:
    for name in ("pipelines", "tasks"):
        (tmp_path / name).mkdir()
    assert list(check_names(tmp_path)) == []  # no module of that name: an import finds Sluice's package
    (tmp_path / "tasks" / "__init__.py").touch()
    (tmp_path / "flows.py").touch()
    (finding,) = check_names(tmp_path)
    assert text(finding).startswith(f"fail: expected no flows.py, tasks/__init__.py in {tmp_path}: ")
    assert list(check_names(ROOT)) == []


def test_the_command_prints_a_line_for_each_finding_or_json_and_fails_if_one_does(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "SLUICE_"))}
    env |= {
        "SLUICE_STATE_DIR": str(tmp_path),
        "SLUICE_REDIS_URL": f"unix://u:hunter2@{tmp_path}/none.sock",
        "PREFECT_API_URL": "http://somebody:hunter2@127.0.0.1:1/api",
    }
    command = [sys.executable, "-m", "deployments", "doctor", "--json"]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100, check=False)
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.returncode == 1, result
    assert {each["check"] for each in found if each["level"] == "fail"} == {"Redis", "Prefect"}
    assert {"Python", "packages", "flow files"} <= {each["check"] for each in found if each["level"] == "ok"}
    assert "hunter2" not in result.stdout + result.stderr
