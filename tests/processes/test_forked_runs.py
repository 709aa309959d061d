"""Runs that are forked from a template, beside runs that are started anew: real processes, without Prefect."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.support.forked_runs import Runs
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="runs are forked on Linux only"),
]


def _wait_for_report(run: subprocess.Popen[str]) -> dict:
    assert run.stdin
    assert run.stdout
    run.stdin.close()
    return json.loads(run.stdout.readline())


def test_forked_run_equals_a_started_one(runs: Runs) -> None:
    forked, started = (runs.report("some", "words", method=how, PREFECT__ID="1") for how in ("fork", "spawn"))
    own = {"parent", "pid", "random", "stderr", "environ", "threads"}
    assert {k: v for k, v in forked.items() if k not in own} == {k: v for k, v in started.items() if k not in own}
    assert {**forked["environ"], "SLUICE_START_METHOD": "spawn"} == started["environ"]
    assert forked["name"] == "__main__"
    assert forked["stderr"] == started["stderr"] == ""


@pytest.mark.parametrize("args", [("exit", "0"), ("exit", "3"), ("text",), ("raise",), ("vanish",), ("die",)])
def test_a_forked_run_ends_as_a_started_one_does(runs: Runs, args: tuple[str, ...]) -> None:
    codes, errors = [], []
    for method in ("fork", "spawn"):
        run = runs.start(*args, method=method)
        errors.append(run.communicate()[1].splitlines()[-1:])
        codes.append(run.returncode)
    assert codes[0] == codes[1]
    assert errors[0] == errors[1]


def test_runs_share_a_template_but_no_random_numbers(runs: Runs) -> None:
    first, second = runs.report(PREFECT__ID="1"), runs.report(PREFECT__ID="2")
    assert first["parent"] == second["parent"]
    assert (first["environ"]["PREFECT__ID"], second["environ"]["PREFECT__ID"]) == ("1", "2")
    assert len({*first["random"], *second["random"]}) == 4


def test_a_run_with_another_environment_has_another_template(runs: Runs) -> None:
    first, second = runs.report(A_SETTING="a"), runs.report(A_SETTING="b")
    assert first["parent"] != second["parent"]
    assert (first["environ"]["A_SETTING"], second["environ"]["A_SETTING"]) == ("a", "b")


def test_many_runs_at_once_start_one_template(own_runs: Runs) -> None:
    started = [own_runs.start("exit", "4") for _ in range(12)]
    assert [run.wait(60) for run in started] == [4] * 12
    assert len(own_runs.templates()) == 1


def test_sigterm_reaches_the_run_which_ends_in_good_order(runs: Runs) -> None:
    run = runs.start("drain")
    _wait_for_report(run)
    run.terminate()
    assert run.wait(30) == 7
    assert run.stdout
    assert run.stdout.read() == "drained\n"


def test_a_run_ends_when_its_command_is_killed(runs: Runs) -> None:
    run = runs.start("drain")
    process = psutil.Process(_wait_for_report(run)["pid"])
    run.kill()
    wait_until(lambda: not process.is_running(), "the end of the run")


def test_a_command_ends_as_its_killed_run(runs: Runs) -> None:
    run = runs.start("drain")
    os.kill(_wait_for_report(run)["pid"], signal.SIGKILL)
    assert run.wait(30) == -signal.SIGKILL


def _terminate(run: subprocess.Popen[str], _pid: int) -> None:
    run.terminate()


def _kill(_run: subprocess.Popen[str], pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(("end", "code"), [(_terminate, 7), (_kill, -signal.SIGKILL)])
def test_a_run_outlives_its_template(
    own_runs: Runs, end: Callable[[subprocess.Popen[str], int], None], code: int
) -> None:
    run = own_runs.start("drain")
    pid = _wait_for_report(run)["pid"]
    own_runs.kill_templates()
    wait_until(lambda: not own_runs.templates(), "the end of the template")
    assert run.poll() is None
    end(run, pid)
    assert run.wait(30) == code
    assert own_runs.report()["argv"] == ["report"]  # from another template


def test_a_template_ends_with_the_worker_that_its_runs_belong_to(own_runs: Runs) -> None:
    worker = """
import subprocess, sys
subprocess.run([sys.executable, "-m", "deployments.processes.run", "a_program", "exit", "0"], check=True)
print("done", flush=True)
sys.stdin.read()
"""
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(own_runs.modules), str(Path(__file__).parents[2])]),
        "SLUICE_STATE_DIR": str(own_runs.state),
    }
    command = [sys.executable, "-c", worker]
    with subprocess.Popen(
        command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=own_runs.modules.parent
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "done\n"
        assert len(own_runs.templates()) == 1
        process.kill()
    wait_until(lambda: not own_runs.templates(), "the end of the template")


def test_changed_imported_file_starts_a_new_template(own_runs: Runs) -> None:
    customize = own_runs.modules / "sitecustomize.py"
    customize.write_text("import sys; sys.argv_before = 'first'\n")
    first = own_runs.report()["parent"]
    assert own_runs.report()["parent"] == first
    customize.write_text("import sys; sys.argv_before = 'second, which is longer'\n")
    assert own_runs.report()["parent"] != first


def test_a_run_starts_anew_where_imports_start_threads(own_runs: Runs) -> None:
    (own_runs.modules / "sitecustomize.py").write_text(
        "import threading, time; threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    )
    report = own_runs.report()
    assert report["parent"] == os.getpid()
    assert "this run starts without a template: its imports have started threads" in report["stderr"]


def test_a_template_that_cannot_start_holds_up_no_run(own_runs: Runs) -> None:
    (own_runs.modules / "pyarrow.py").write_text("raise ImportError('broken')\n")
    first, second = own_runs.report(), own_runs.report()
    assert first["parent"] == second["parent"] == os.getpid()
    assert "it could not start; see" in first["stderr"]
    assert "it could not start a moment ago" in second["stderr"]


def test_a_folder_that_others_may_enter_is_not_used(own_runs: Runs) -> None:
    (own_runs.state / "templates").mkdir(parents=True)
    (own_runs.state / "templates").chmod(0o755)
    report = own_runs.report()
    assert report["parent"] == os.getpid()
    assert "a folder that only this user can enter" in report["stderr"]


def test_a_temporary_folder_that_others_may_enter_is_not_used(own_runs: Runs, tmp_path: Path) -> None:
    parent = tmp_path / f"sluice-{os.getuid()}"
    parent.mkdir()
    parent.chmod(0o755)
    report = own_runs.report(SLUICE_STATE_DIR="", TMPDIR=str(tmp_path))
    assert report["parent"] == os.getpid()
    assert f"expected {str(parent)!r} to be a folder that only this user can enter" in report["stderr"]


def test_a_file_that_cannot_be_opened_holds_up_no_run(own_runs: Runs) -> None:
    own_runs.report()
    (lock,) = (own_runs.state / "templates").glob("*.lock")
    own_runs.kill_templates()
    wait_until(lambda: not own_runs.templates(), "the end of the template")
    lock.unlink()
    lock.mkdir()
    report = own_runs.report()
    assert report["parent"] == os.getpid()
    assert "this run starts without a template" in report["stderr"]


@pytest.mark.parametrize("where", ["profile", "folder"])
def test_a_forked_run_has_the_prefect_settings_that_a_started_one_has(
    own_runs: Runs, tmp_path: Path, where: str
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environ = {name: value for name, value in os.environ.items() if name.startswith("PREFECT_LOGGING")}
    environ = dict.fromkeys(environ, "") | {"PREFECT_HOME": str(home)}

    def settings() -> list[str]:
        run = own_runs.start("settings", **environ)
        return run.communicate()[0].split()

    assert settings()[0] == "INFO"
    if where == "profile":
        (home / "profiles.toml").write_text('active = "mine"\n[profiles.mine]\nPREFECT_LOGGING_LEVEL = "ERROR"\n')
    else:
        (own_runs.modules.parent / "prefect.toml").write_text('[logging]\nlevel = "ERROR"\n')
    level, parent = settings()
    assert level == "ERROR"
    assert int(parent) != os.getpid()  # it was forked
    assert settings() == [level, parent]  # its template has read them once
    if where == "folder":
        (own_runs.modules.parent / "prefect.toml").unlink()
        assert settings() == ["INFO", parent]


def test_a_run_in_a_folder_with_broken_settings_fails_alone(own_runs: Runs) -> None:
    file = own_runs.modules.parent / "prefect.toml"
    file.write_text("[logging\n")
    run = own_runs.start("settings")
    assert "TOMLDecodeError" in run.communicate()[1]
    assert run.returncode == 1
    file.unlink()
    assert own_runs.start("settings").communicate()[0].split()[0] == "INFO"


def test_an_unknown_start_method_is_refused(runs: Runs) -> None:
    run = runs.start("report", method="thread")
    assert "SLUICE_START_METHOD: expected fork or spawn, got 'thread'" in run.communicate()[1]
    assert run.returncode == 1
