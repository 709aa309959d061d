"""A Redis with TLS and the ACL user of docs/redis.md: Sluice's needs are met, and nothing else is permitted.

The page's own commands create the certificate and the user.
"""

import asyncio
import io
import re
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import httpx
import psutil
import pytest
import redis
from prefect import flow
from prefect.blocks.system import Secret
from rich.console import Console

from deployments.checks.redis_in_use import check_redis
from deployments.commands.peek import peek
from deployments.servers.child import Child
from deployments.servers.redis_binary import find_redis_server
from flows.runtime.shared_poll import SharedPoll
from tasks import Reservoir, SettingsError, UnavailableError
from tasks.base.state_folder import STATE_DIR
from tasks.group.dead_letters import DeadLetters
from tasks.group.rewind import rewind
from tasks.nodes.engine import engine
from tasks.pump.call_limit import CallGate, CallLimit
from tasks.pump.ticks import Beat
from tasks.reservoir.connection import connect
from tasks.reservoir.cursors import CursorMove, Memory
from tasks.reservoir.history import History
from tasks.reservoir.keep import Keep
from tasks.reservoir.keys import inlet_of
from tasks.reservoir.reservoir import LARGE
from tasks.reservoir.retention import Retention
from tasks.settings import REDIS_URL, SECRET_BLOCK, redis_url
from tasks.state.inspection import kept_state
from tests.support.ports import reserve_port
from tests.support.streams import crash, drain, here, run
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

PAGE = (Path(__file__).parents[2] / "docs" / "redis.md").read_text()
LINES = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
RULES = [shlex.split(line)[1:] for line in LINES if line.startswith("redis-cli ACL")]
ALLOWED = {word[1:].partition("|")[0] for rule in RULES for word in rule if word.startswith("+")}
KEEP = "200, 1h, 1MB"


class Secured:
    """A server with the page's certificate and user; `admin` is a client with all rights."""

    def __init__(self, folder: Path) -> None:
        (openssl,) = [shlex.split(line.replace("redis.example", "localhost")) for line in LINES if "openssl" in line]
        subprocess.run(openssl, cwd=folder, check=True, capture_output=True, timeout=240)
        (users,) = [line for line in LINES if line.endswith("> users.acl")]
        subprocess.run(users, shell=True, cwd=folder, check=True, timeout=240)
        port = reserve_port()
        (conf,) = re.findall(r"```text\n# redis.conf\n(.*?)```", PAGE, re.DOTALL)
        (folder / "redis.conf").write_text(conf.replace("6380", str(port)).replace("/etc/redis", str(folder)))
        self.program = shutil.which("redis-server") or str(find_redis_server().path)  # the wheel's has no TLS
        command = [self.program, str(folder / "redis.conf"), "--dir", str(folder)]
        self.child = Child("Redis", command, log=folder / "redis.log", tied=True)
        self.child.start()
        self.certificate = folder / "redis.crt"
        address = next(line.partition("=")[2].strip('"') for line in LINES if "ssl_ca_certs" in line)
        address = address.replace("/etc/sluice", str(folder)).replace("redis.example:6380", f"localhost:{port}")
        self.url = address.replace("/0?", "/3?")
        (password,) = [line.partition("=")[2] for line in LINES if line.startswith("export REDISCLI_AUTH=")]
        self.admin: Any = redis.Redis(
            host="localhost",
            port=port,
            password=password,
            ssl=True,
            ssl_ca_certs=str(self.certificate),
            decode_responses=True,
        )
        wait_until(self._answers, "the server")
        for rule in RULES:
            self.admin.execute_command(*rule)

    def _answers(self) -> bool:
        if self.child.exit_code is not None:
            pytest.skip(f"{self.program} was built without TLS")
        try:
            return self.admin.ping()
        except redis.ConnectionError:
            return False


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    if not shutil.which("openssl"):
        pytest.skip("there is no openssl to make a certificate with (Debian: apt-get install openssl)")
    server = None
    try:
        server = Secured(tmp_path_factory.mktemp("secured"))
        yield server
    finally:
        if server:
            server.admin.close()
            server.child.stop(grace=10)


def breaks_once(entry: dict[str, Any]) -> int:
    if entry["n"] == 299:
        msg = "the last"
        raise ValueError(msg)
    return entry["n"]


def crash_with_everything_pending(client: redis.Redis) -> None:
    async def life() -> None:
        source = here(client, "market", group="movers")
        kept = source.sliding_window(100)
        source.open()
        await drain(source)
        crash(source, client)
        del kept

    asyncio.run(life())


class NoServer:
    """A stand-in for Prefect's server that has no deployment and no run."""

    def request(self, *_: Any, **__: Any) -> httpx.Response:
        return httpx.Response(200, json=[])


def ask_beside_a_run(client: redis.Redis) -> None:
    poll = SharedPoll(client, name="a-run", deployment="a-deployment", server="http://nowhere")
    poll.look()
    assert poll.take_turn()
    assert poll.refresh(cast("SyncPrefectClient", NoServer())) == []
    seen, _ = poll.look()
    assert seen
    assert not seen.updated
    poll.leave()


def everything(client: redis.Redis, url: str) -> None:
    """Do what inlets, outlets, the operator's flows and the commands do: pushes, crashes, dead letters, trims, a rewind."""
    reservoir = Reservoir(client)
    retention = Retention(client)
    kept: list[Any] = []
    keep = Keep.of(KEEP)
    retention.declare("market", keep, inlet="by hand")
    for _ in range(3):  # trims the oldest, whole nodes of Redis at a time
        reservoir.push_many("market", [{"n": n} for n in range(300)], keep=keep)
    crash_with_everything_pending(client)
    run(
        lambda source: source.map(breaks_once).sliding_window(2).map(list).to_redis("signals"),
        client,
        "market",
        group="movers",
    )
    letters = DeadLetters(client, "market", "movers")
    assert len(letters) > 0
    assert {outcome for _, outcome in letters.replay(letters.choose(), into_windows=True)} == {"replayed"}
    run(lambda source: source.pluck("n").sink(kept.append), client, "market", group="movers")

    run(lambda source: source.accumulate(lambda n, _: n + 1, start=0).sink(kept.append), client, "market", group="sums")
    assert kept_state(client, "sums")

    ticks: list[Any] = []
    pumped = engine("market", func=lambda: {"tick": 1}, every="20ms", url=url, keep=KEEP)
    pumped.sink(ticks.append)
    pumped.start()
    wait_until(lambda: len(ticks) > 2, "three ticks")
    pumped.stop()
    pumped.join(timeout=20)

    run(lambda source: source.sink(kept.append), client, "market", group="bounded", until="now")
    for _ in range(3):  # spills the oldest one by one, because no group has read them
        reservoir.push_many("market", [{"n": n} for n in range(300)], keep=keep)
    assert here(client, "market", group="bounded").drop_group()
    History(client).add(reservoir.levels())
    assert History(client).latest()
    retention.trim("market")
    retention.forget("market", after_ms=60_000)
    reservoir.push("market", {"n": "x" * LARGE}, keep=keep)
    peek(Console(file=io.StringIO()), "signals", 1)
    assert reservoir.follow("market", "0-0", n=1, block_ms=1)
    rewind(client, "market", "movers", "beginning")
    ask_beside_a_run(client)
    remember_and_limit_calls(reservoir)


def remember_and_limit_calls(reservoir: Reservoir) -> None:
    """Do what an inlet with a cursor, a limit of calls and `catch_up` does."""
    beat = Beat(reservoir, "market", "trades", every=1.0, keep=KEEP, remembers=True)
    first = beat.start(time.time() - 10, catch_up=60.0)
    assert beat.claim(first) == "claimed"
    assert beat.give_back(first)
    assert beat.claim(first) == "claimed"
    assert beat.cursor
    move = CursorMove(beat.cursor.key, beat.cursor.read().version, Memory(b"1"))
    assert beat.push(first, reservoir.encode([{"n": 1}]), move=move)
    gate = CallGate(reservoir.client, CallLimit.of("1/min", "api"), inlet=inlet_of(beat.key))
    assert not gate.take()
    assert gate.take()
    gate.pause(60)
    assert gate.left()


def test_documented_acl_user_has_exactly_the_needed_commands(secured: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REDIS_URL, secured.url)
    secured.admin.xadd("of-another-program", {"a": 1})  # in database 0; Sluice uses another
    secured.admin.acl_log_reset()
    secured.admin.config_resetstat()
    with connect(secured.url) as client:
        everything(client, secured.url)
    # redis-py reports its name to servers from Redis 7.2 on, and ignores a refusal.
    assert [each["object"] for each in secured.admin.acl_log() if not each["object"].startswith("client")] == []
    calls = secured.admin.info("commandstats")
    used = {name.removeprefix("cmdstat_").partition("|")[0] for name in calls}
    assert used >= ALLOWED  # each is needed


def test_documented_acl_user_cannot_flush_or_read_foreign_keys(secured: Secured) -> None:
    with connect(secured.url) as client:
        for command in ("FLUSHALL", "KEYS *", "CONFIG GET *", "GET elsewhere", "XADD elsewhere * a 1", "ACL LIST"):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command.split())


def test_documented_server_serves_other_machines_only_with_a_password(secured: Secured) -> None:
    found = [each.address for name in psutil.net_if_addrs().values() for each in name if each.family is socket.AF_INET]
    ours = [address for address in found if not address.startswith("127.")]
    if not ours:
        pytest.skip("this machine has no address but that of its loopback")
    # Clients of that address are not local: protected mode refuses them unless a password is set.
    url = secured.url.replace("localhost", ours[0]) + "&ssl_check_hostname=false"
    connect(url, retries=0).close()
    with pytest.raises(UnavailableError, match="refuses the user or password|refuses to be used"):
        connect(url.replace("sluice:correct-horse@", ""), retries=0)


def test_untrusted_certificate_is_refused(secured: Secured) -> None:
    with pytest.raises(UnavailableError, match="does not answer") as refusal:
        connect(secured.url.partition("?")[0], retries=0)
    assert "certificate verify failed" in str(refusal.value.__cause__)
    assert "correct-horse" not in str(refusal.value)


@pytest.mark.usefixtures("prefect")
def test_flow_run_uses_the_documented_secret_block(monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(code, {})
    monkeypatch.delenv(REDIS_URL, raising=False)
    monkeypatch.setenv(STATE_DIR, "/nowhere")
    assert flow(redis_url)() == "rediss://sluice:correct-horse@redis.example:6380/0"
    with pytest.raises(SettingsError, match="found none"):  # only flow runs read it
        redis_url()
    Secret.delete(SECRET_BLOCK)


def test_doctor_finds_no_fault_in_the_documented_server(secured: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REDIS_URL, secured.url)
    assert [each for each in check_redis() if each.level == "fail"] == []
