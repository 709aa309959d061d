"""The `sluice` command. Tests run it in a process of its own where the process is part of the claim."""

import io
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import pandas as pd
import pytest
import redis
from prefect.settings import PREFECT_API_URL, temporary_settings
from rich.console import Console

from deployments.cli import main
from deployments.commands.dead import dead
from deployments.servers.ledger import Ledger
from deployments.servers.prefect_server import said_by
from deployments.servers.redis_server import RedisServer
from tasks.errors import SettingsError
from tasks.reservoir import Reservoir
from tasks.reservoir.entry import Entry
from tests.support.plain import ROOT, clean_environment
from tests.support.ports import refusing_port, reserve_port
from tests.support.streams import push_all, run
from tests.support.waiting import wait_until


def sluice(*arguments: str, state: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command with a state folder of its own and nothing of ours in its environment."""
    return subprocess.run(
        [sys.executable, "-m", "deployments", *arguments],
        env=clean_environment(SLUICE_STATE_DIR=str(state), COLUMNS="120", **env),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def the_sentence(result: subprocess.CompletedProcess[str]) -> str:
    """Return the one line an error was told in."""
    assert result.returncode == 1, result
    assert "Traceback" not in result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("sluice: ")
    return line


@pytest.fixture
def in_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs the command in this process, which saves a second, and returns what it printed.

    The environment is restored afterwards. Prefect's settings are read once in a process, so its URL is set here.
    """

    def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        others = {name: value for name, value in os.environ.items() if name != "SLUICE_REDIS_URL"}
        env = others | {"SLUICE_STATE_DIR": str(tmp_path), "COLUMNS": "120"} | env
        with (
            patch.dict(os.environ, env, clear=True),
            patch.object(sys, "argv", ["sluice", *arguments]),
            temporary_settings({PREFECT_API_URL: env.get("PREFECT_API_URL", "")}),
            pytest.raises(SystemExit) as end,
        ):
            main()
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, int(end.value.code or 0), out, err)

    return run


@pytest.fixture
def refusal(in_process: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., str]:
    """Return a function that runs the command in this process and returns the line of its error."""
    return lambda *arguments, **env: the_sentence(in_process(*arguments, **env))


def test_help_names_the_commands_and_needs_no_prefect(tmp_path: Path) -> None:
    result = sluice("--help", state=tmp_path)
    assert result.returncode == 0
    assert all(name in result.stdout for name in ("up", "status", "peek", "dead", "doctor", "restart", "stop"))
    loaded = "import deployments.cli, sys; sys.exit(bool({'prefect', 'pandas', 'redis'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", loaded], check=False).returncode == 0


def test_without_a_redis_the_error_is_one_sentence_that_says_what_to_do(refusal: Callable[..., str]) -> None:
    assert "run `make up`, or set SLUICE_REDIS_URL" in refusal("peek", "market")


def test_a_redis_that_does_not_answer_is_named_without_its_password(refusal: Callable[..., str]) -> None:
    line = refusal("peek", "market", SLUICE_REDIS_URL=f"redis://user:hunter2@127.0.0.1:{refusing_port()}/0")
    assert "does not answer" in line
    assert "hunter2" not in line


def test_debug_shows_the_traceback(tmp_path: Path, in_process: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    result = sluice("--debug", "peek", "x", state=tmp_path)
    assert "Traceback" in result.stderr
    assert result.returncode == 1
    with pytest.raises(SettingsError):  # which the interpreter would print with its traceback
        in_process("peek", "x", SLUICE_DEBUG="1")


def test_a_name_that_is_no_topic_is_refused(refusal: Callable[..., str], redis_server: RedisServer) -> None:
    assert "got 'no topic'" in refusal("peek", "no topic", SLUICE_REDIS_URL=redis_server.url)


def test_a_topic_that_is_not_there_is_told_with_those_that_are(
    refusal: Callable[..., str], redis_server: RedisServer, real_redis: redis.Redis
) -> None:
    real_redis.xadd("signals", {"n": 7})
    line = refusal("peek", "nothing", SLUICE_REDIS_URL=redis_server.url)
    assert line == "sluice: expected a topic, got 'nothing'; there are: signals"


def test_up_refuses_a_folder_where_another_one_runs(tmp_path: Path) -> None:
    with Ledger(tmp_path).held():
        line = the_sentence(sluice("up", state=tmp_path))
    assert f"already running here (process {os.getpid()}" in line


def test_up_names_the_program_on_its_port_and_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = sluice("up", "--port", str(port), state=tmp_path)
    line = the_sentence(result)
    assert f"port {port} is taken by another program" in line
    assert line.endswith(f': sluice up --port {port + 1}, or make up ARGS="--port {port + 1}"')
    assert "stopped in" not in result.stdout, "nothing had been started"


def test_up_says_so_when_the_prefect_server_it_was_given_does_not_answer(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    url = f"http://127.0.0.1:{refusing_port()}/api"
    line = the_sentence(sluice("up", state=tmp_path, PREFECT_API_URL=url, SLUICE_REDIS_URL=redis_server.url))
    assert f"no Prefect server answers at PREFECT_API_URL ({url})" in line


def test_restart_says_so_when_no_prefect_server_answers(refusal: Callable[..., str]) -> None:
    url = f"http://127.0.0.1:{refusing_port()}/api"
    line = refusal("restart", "movers", PREFECT_API_URL=url)
    assert f"no Prefect server answers at {url}; run `make up`" in line


def test_a_timeout_is_a_duration_with_a_unit(
    in_process: Callable[..., subprocess.CompletedProcess[str]], refusal: Callable[..., str]
) -> None:
    url = f"http://127.0.0.1:{refusing_port()}/api"
    assert "no Prefect server answers" in refusal("stop", "movers", "--timeout", "PT1M", PREFECT_API_URL=url)
    refused = in_process("stop", "movers", "--timeout", "1M", PREFECT_API_URL=url)
    assert refused.returncode == 2
    assert "timeout: expected a duration such as '500ms'" in refused.stderr


def test_peek_shows_the_newest_entries_and_status_what_there_is(
    in_process: Callable[..., subprocess.CompletedProcess[str]], redis_server: RedisServer, real_redis: redis.Redis
) -> None:
    reservoir = Reservoir(real_redis)
    reservoir.push("signals", {"moved": pd.DataFrame({"code": ["150001", "150002"], "change": [1.5, -2.0]})})
    reservoir.push("signals", {"n": 7})
    url = {"SLUICE_REDIS_URL": redis_server.url}
    shown = in_process("peek", "signals", "-n", "2", **url).stdout
    assert shown.index("150002") < shown.index("n ")
    assert "7" in shown
    status = in_process("status", PREFECT_API_URL=f"http://127.0.0.1:{refusing_port()}/api", **url)
    assert status.returncode == 1  # no Prefect
    assert "not running here" in status.stdout
    assert "no Prefect server answers" in status.stdout
    assert "signals" in status.stdout


def redis_of(tmp_path: Path, server: RedisServer) -> dict[str, str]:
    """Return the environment in which the command finds this Redis, and no Prefect server."""
    return {
        "SLUICE_STATE_DIR": str(tmp_path),
        "SLUICE_REDIS_URL": server.url,
        "PREFECT_API_URL": f"http://127.0.0.1:{refusing_port()}/api",
    }


@contextmanager
def running(
    *arguments: str, env: dict[str, str], terminal: bool = False
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run the command on, what it prints in a file, in a terminal of its own if asked; end it whatever happens."""
    output = Path(env["SLUICE_STATE_DIR"]) / "output"
    command = [sys.executable, "-m", "deployments", *arguments]
    if terminal:  # script(1) gives it one, and writes down what it shows
        command = ["script", "--quiet", "--flush", "--return", "--command", shlex.join(command), str(output)]
    with output.open("wb") as file:
        process = subprocess.Popen(
            command,
            env=clean_environment(COLUMNS="120", LINES="40", TERM="xterm", **env),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL if terminal else file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process, output
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def test_peek_follows_a_topic_that_does_not_exist_yet_through_an_outage_and_touches_no_group(tmp_path: Path) -> None:
    with (
        RedisServer(tmp_path / "redis") as server,
        running("peek", "signals", "--follow", "--json", env=redis_of(tmp_path, server)) as (process, output),
    ):
        wait_until(
            lambda: "there is no topic 'signals' yet (there are: none yet); waiting for it" in output.read_text(),
            "it to wait",
        )
        reservoir = Reservoir.from_url(server.url)
        reservoir.push_many("signals", [{"n": 1}, {"n": 2}])
        wait_until(lambda: '"fields": {"n": 2}' in output.read_text(), "the first two")
        server.kill()
        wait_until(lambda: "does not answer; trying again" in output.read_text(), "it to see that Redis is away")
        server.start()
        reservoir.push("signals", {"n": 3})
        wait_until(lambda: '"fields": {"n": 3}' in output.read_text(), "the third one")
        process.send_signal(signal.SIGINT)
        wait_until(lambda: process.poll() is not None, "Ctrl-C to end it")
        assert process.returncode == 0
        shown = [json.loads(text)["fields"]["n"] for text in output.read_text().splitlines() if text.startswith("{")]
        assert shown == [1, 2, 3]
        assert reservoir.client.xinfo_groups("signals") == []


def test_status_is_watched_until_ctrl_c_with_json_a_line_for_each_look(
    tmp_path: Path, real_redis: redis.Redis, redis_server: RedisServer
) -> None:
    Reservoir(real_redis).push("signals", {"n": 7})
    with running("status", "--watch", "--json", env=redis_of(tmp_path, redis_server)) as (process, output):
        wait_until(lambda: output.read_text().count("\n") >= 2, "two looks")
        process.send_signal(signal.SIGINT)
        wait_until(lambda: process.poll() is not None, "Ctrl-C to end it")
    first, second, *_ = map(json.loads, output.read_text().splitlines())
    assert [each["topic"] for each in second["redis"]["topics"]] == ["signals"]
    assert first["time"] < second["time"]
    assert "no Prefect server answers" in first["prefect"]["error"]
    assert process.returncode == 1  # no Prefect


@pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("script"), reason="no util-linux' script(1) for a terminal"
)
def test_status_on_a_terminal_is_drawn_in_place(
    tmp_path: Path, real_redis: redis.Redis, redis_server: RedisServer
) -> None:
    Reservoir(real_redis).push("signals", {"n": 7})
    with running("status", "--watch", env=redis_of(tmp_path, redis_server), terminal=True) as (process, output):
        wait_until(lambda: output.read_text().count("Ctrl-C ends this") >= 2, "two looks")
        assert process.stdin
        process.stdin.write(b"\x03")
        process.stdin.flush()
        wait_until(lambda: process.poll() is not None, "Ctrl-C to end it")
    text = output.read_text()
    assert "\x1b[1A" in text, "the cursor went up, to draw over what was there"
    assert "Traceback" not in text
    assert "Aborted" not in text


def test_dead_shows_where_and_why_and_how_to_replay(
    real_redis: redis.Redis,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    push_all(real_redis, "market", [1, 0, "x"])
    run(lambda source: source.map(reciprocal).sink(lambda _: None), real_redis, "market", group="movers")
    monkeypatch.setenv("SLUICE_REDIS_URL", redis_server.url)

    def told(n: int = 10, **options: Any) -> str:
        dead(Console(width=160), "market", "movers", n, **options)
        return capsys.readouterr().out

    table = told()
    assert table.index("TypeError") < table.index("ZeroDivisionError('division by zero')"), "the newest first"
    assert "2 of 2" in table
    assert "sluice dead market movers --node 'map(reciprocal)' --replay" in table
    assert told(choice={"exception": "TypeError"}).count("map(reciprocal)") == 2, (
        "a letter, and the command for its node"
    )
    assert "for which that holds" in told(choice={"node": "sink"})
    assert "1 of 2 chosen, 2 in all" in told(1, choice={"node": "map(reciprocal)"})
    assert 'return 1 / entry["n"]' in told(1, tracebacks=True)
    (letter,) = map(json.loads, told(1, as_json=True).splitlines())
    assert letter["node"] == "map(reciprocal)"
    assert letter["traceback"].startswith("Traceback")
    assert letter["deliveries"] == 1


@pytest.fixture
def windowed(real_redis: redis.Redis, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> redis.Redis:
    """Return a Redis with three dead letters of a window and one of a plain map."""
    monkeypatch.setenv("SLUICE_REDIS_URL", redis_server.url)
    push_all(real_redis, "market", [0, 0, 0])
    run(lambda source: source.partition(3).map(len).map(reciprocal), real_redis, "market", group="windows")
    run(lambda source: source.filter(lambda _: False), real_redis, "market", group="movers")
    push_all(real_redis, "market", [0])
    run(lambda source: source.map(reciprocal), real_redis, "market", group="movers")
    return real_redis


@pytest.mark.parametrize(
    ("group", "arguments", "answer", "code", "shown", "left"),
    [
        (
            "windows",
            ["--discard"],
            "n\n",
            1,
            "discard 3 dead letters of topic 'market' and group 'windows' for good?",
            3,
        ),
        ("windows", ["--discard"], "", 1, "expected a yes, got none; nothing was changed", 3),
        ("windows", ["--discard", "--limit", "2"], "y\n", 0, "2 discarded; 1 are left", 1),
        ("windows", ["--discard", "--yes", "--node", "sink"], "", 0, "none was chosen; 3 are left", 3),
        ("windows", ["--discard", "--yes", "1-1"], "", 0, "1 not there; 3 are left", 3),
        (
            "windows",
            ["--replay"],
            "n\n",
            1,
            "of 3 dead letters, 3 come from a pipeline that combines entries (partition)",
            3,
        ),
        ("windows", ["--replay", "--yes"], "", 0, "3 replayed; 0 are left", 0),
        ("movers", ["--replay"], "y\n", 0, "replay 1 dead letters of topic 'market' and group 'movers'? [y/N]", 0),
        ("movers", ["--replay", "--discard"], "", 2, "expected --replay or --discard, got both", 1),
        ("movers", ["--discard", "--yes", "--json"], "", 0, '"now": "discarded"', 0),
    ],
)
def test_dead_replays_and_discards_chosen_letters_once_confirmed(
    windowed: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    group: str,
    arguments: list[str],
    answer: str,
    code: int,
    shown: str,
    left: int,
) -> None:
    monkeypatch.setattr(sys, "argv", ["sluice", "dead", "market", group, *arguments])
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    assert (end.value.code or 0, windowed.xlen(f"market:dead:{group}")) == (code, left), out + err
    assert shown in out + err
    replayed = windowed.xlen(f"market:retry:{group}")
    assert replayed == (
        3 if "replayed" in shown else 1 if group == "movers" and "--replay" in arguments and not code else 0
    )


def test_dead_names_the_groups_there_are(
    refusal: Callable[..., str], real_redis: redis.Redis, redis_server: RedisServer
) -> None:
    push_all(real_redis, "market", [1])
    real_redis.xgroup_create("market", "movers")
    nobody = refusal("dead", "market", "nobody", SLUICE_REDIS_URL=redis_server.url)
    assert "got group 'nobody' of topic 'market': 'market' has 'movers'" in nobody


def reciprocal(entry: Entry) -> float:
    return 1 / entry["n"]


def test_a_redis_that_ends_a_command_is_told_in_one_sentence(
    refusal: Callable[..., str], real_redis: redis.Redis, redis_server: RedisServer
) -> None:
    real_redis.execute_command("ACL", "SETUSER", "half", "on", ">hunter2", "~*", "+@all", "-xrevrange")
    real_redis.xadd("signals", {"n": 1})
    line = refusal("peek", "signals", SLUICE_REDIS_URL=f"unix://half:hunter2@{redis_server.socket}")
    assert "NoPermissionError" in line
    assert "xrevrange" in line
    assert "hunter2" not in line


def test_up_with_a_redis_that_does_not_answer_starts_nothing(tmp_path: Path) -> None:
    url = f"redis://:hunter2@127.0.0.1:{refusing_port()}/0"
    result = sluice("up", "--port", str(reserve_port()), state=tmp_path, SLUICE_REDIS_URL=url)
    line = the_sentence(result)
    assert "does not answer (Connection refused)" in line
    assert "hunter2" not in result.stdout + line
    assert not (tmp_path / "logs" / "prefect-server.log").exists()


@pytest.mark.parametrize(
    ("status", "says"), [(401, "without the right key (401); set PREFECT_API_AUTH_STRING"), (503, "an error (503)")]
)
def test_a_prefect_server_that_refuses_is_told_in_a_sentence(status: int, says: str) -> None:
    request = httpx.Request("GET", "http://user:hunter2@127.0.0.1:1/api/flows")
    error = httpx.HTTPStatusError("hunter2", request=request, response=httpx.Response(status, request=request))
    with temporary_settings({PREFECT_API_URL: "http://user:hunter2@127.0.0.1:1/api"}):
        said = said_by(error)
    assert says in said
    assert "at http://127.0.0.1:1/api" in said
    assert "hunter2" not in said


def test_a_python_without_the_project_says_how_to_install_it(tmp_path: Path) -> None:
    bare = [sys.executable, "-S", "-m", "deployments", "status"]  # -S: without what is installed
    result = subprocess.run(bare, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert "has no module 'typer': Sluice is not installed for it; run `make up`" in the_sentence(result)


def test_the_command_works_from_any_folder(tmp_path: Path, real_redis: redis.Redis, redis_server: RedisServer) -> None:
    real_redis.xadd("signals", {"n": 1})
    command = [str(Path(sys.executable).with_name("sluice")), "peek", "signals", "--json"]
    env = {**os.environ, **redis_of(tmp_path, redis_server)}
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert json.loads(result.stdout)["fields"] == {"n": 1}
