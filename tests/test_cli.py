"""The `sluice` command, as a user meets it: in a process of its own."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from deployments.ledger import Ledger
from deployments.redis_server import RedisServer
from deployments.tables import entry_table
from tasks.entry import Entry
from tasks.reservoir import Reservoir


def sluice(*arguments: str, state: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command with a state folder of its own and nothing of ours in its environment."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "SLUICE_"))}
    return subprocess.run(
        [sys.executable, "-m", "deployments", *arguments],
        env={**inherited, "SLUICE_STATE_DIR": str(state), "COLUMNS": "120", **env},
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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_help_names_the_commands_and_needs_no_prefect(tmp_path: Path) -> None:
    result = sluice("--help", state=tmp_path)
    assert result.returncode == 0
    assert all(name in result.stdout for name in ("up", "status", "peek", "restart"))
    loaded = "import deployments.cli, sys; sys.exit(bool({'prefect', 'pandas', 'redis'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", loaded], check=False).returncode == 0


def test_without_a_redis_the_error_is_one_sentence_that_says_what_to_do(tmp_path: Path) -> None:
    assert "run `make up`, or set SLUICE_REDIS_URL" in the_sentence(sluice("peek", "market", state=tmp_path))


def test_a_redis_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    url = f"redis://user:hunter2@127.0.0.1:{free_port()}/0"
    line = the_sentence(sluice("peek", "market", state=tmp_path, SLUICE_REDIS_URL=url))
    assert "does not answer" in line
    assert "hunter2" not in line


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    for result in (
        sluice("--debug", "peek", "x", state=tmp_path),
        sluice("peek", "x", state=tmp_path, SLUICE_DEBUG="1"),
    ):
        assert "Traceback" in result.stderr
        assert result.returncode == 1


def test_a_name_that_is_no_topic_is_refused(tmp_path: Path, redis_server: RedisServer) -> None:
    line = the_sentence(sluice("peek", "no topic", state=tmp_path, SLUICE_REDIS_URL=redis_server.url))
    assert "got 'no topic'" in line


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
    assert f"sluice up --port {port + 1}" in line


def test_up_says_so_when_the_prefect_server_it_was_given_does_not_answer(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    url = f"http://127.0.0.1:{free_port()}/api"
    line = the_sentence(sluice("up", state=tmp_path, PREFECT_API_URL=url, SLUICE_REDIS_URL=redis_server.url))
    assert f"no Prefect server answers at PREFECT_API_URL ({url})" in line


def test_restart_says_so_when_no_prefect_server_answers(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/api"
    line = the_sentence(sluice("restart", "movers", state=tmp_path, PREFECT_API_URL=url))
    assert f"no Prefect server answers at {url}; run `make up`" in line


def test_peek_shows_the_newest_entries_and_status_what_there_is(tmp_path: Path, redis_server: RedisServer) -> None:
    reservoir = Reservoir.from_url(redis_server.url)
    reservoir.client.flushall()
    reservoir.push("signals", {"moved": pd.DataFrame({"code": ["150001", "150002"], "change": [1.5, -2.0]})})
    reservoir.push("signals", {"n": 7})
    url = {"SLUICE_REDIS_URL": redis_server.url}
    shown = sluice("peek", "signals", "-n", "2", state=tmp_path, **url).stdout
    assert shown.index("150002") < shown.index("n ")
    assert "7" in shown
    assert "holds no entries" in sluice("peek", "nothing", state=tmp_path, **url).stdout
    status = sluice("status", state=tmp_path, PREFECT_API_URL=f"http://127.0.0.1:{free_port()}/api", **url)
    assert status.returncode == 1  # no Prefect
    assert "not running here" in status.stdout
    assert "no server answers" in status.stdout
    assert "signals" in status.stdout
    reservoir.client.flushall()


def test_a_wide_frame_shows_its_first_and_its_last_columns_in_the_room_there_is() -> None:
    frame = pd.DataFrame({f"column_{n}": [n] * 20 for n in range(30)})
    table = entry_table("t", Entry({"frame": frame}, topic="t", id="1-0"), width=60)
    names = [str(column.header) for column in table.columns]  # type: ignore[union-attr]
    assert names == ["column_0", "column_1", "column_2", "column_28", "column_29"]
    assert table.row_count == 10  # type: ignore[union-attr]
    assert table.caption == "of 20 rows and 30 columns"  # type: ignore[union-attr]


@pytest.mark.parametrize("frame", [pd.DataFrame(), pd.DataFrame({"a": []}), pd.DataFrame(index=[1, 2])])
def test_an_empty_frame_can_be_shown(frame: pd.DataFrame) -> None:
    entry_table("t", Entry({"frame": frame}, topic="t", id="1-0"))
