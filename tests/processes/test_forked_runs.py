"""Runs that are forked from a template, beside runs that are started anew: real processes, without Prefect."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from deployments.servers.ledger import flow_run_processes
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="runs are forked on Linux only")

PROGRAM = """
import atexit, json, os, random, signal, sys, time
import numpy

def report():
    print(json.dumps({
        "argv": sys.argv[1:], "name": __name__, "cwd": os.getcwd(), "path": sys.path[0], "stdin": sys.stdin.read(),
        "environ": dict(os.environ), "umask": os.umask(0o22), "parent": os.getppid(), "pid": os.getpid(),
        "random": [random.random(), numpy.random.random()], "threads": len(os.listdir("/proc/self/task")),
    }), flush=True)

match sys.argv[1]:
    case "report":
        atexit.register(print, "the end")
        report()
    case "exit":
        sys.exit(int(sys.argv[2]))
    case "text":
        sys.exit("a last word")
    case "raise":
        raise ValueError("a fault")
    case "settings":
        from prefect.settings import get_current_settings
        print(get_current_settings().logging.level, os.getppid(), flush=True)
    case "vanish":
        os._exit(5)
    case "die":
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(60)
    case "drain":
        stopping = []
        signal.signal(signal.SIGTERM, lambda *_: stopping.append(1))
        report()
        while not stopping:
            time.sleep(0.01)
        print("drained", flush=True)
        sys.exit(7)
"""


class Runs:
    """Starts runs of PROGRAM in a folder, with a state folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.modules = folder / "modules"
        self.modules.mkdir()
        self._started: list[subprocess.Popen[str]] = []
        (self.modules / "a_program.py").write_text(PROGRAM)

    def start(self, *args: str, method: str = "fork", **environ: str) -> subprocess.Popen[str]:
        started = subprocess.Popen(
            [sys.executable, "-m", "deployments.processes.run", "a_program", *args],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(self.modules), str(Path(__file__).parents[2])]),
                "SLUICE_STATE_DIR": str(self.state),
                "SLUICE_START_METHOD": method,
                **environ,
            },
            cwd=self.modules.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(started)
        return started

    def report(self, *args: str, **options: str) -> dict:
        """Return the report of an ended run."""
        run = self.start("report", *args, **options)
        out, err = run.communicate("some input")
        assert run.returncode == 0, err
        line, end = out.splitlines()
        assert end == "the end"
        return {**json.loads(line), "stderr": err}

    def templates(self) -> list[psutil.Process]:
        def is_ours(process: psutil.Process) -> bool:
            try:
                return (
                    "deployments.processes.template" in process.cmdline()
                    and process.environ().get("SLUICE_STATE_DIR") == str(self.state)
                    and process.status() != psutil.STATUS_ZOMBIE
                    and process.name() != "sluice-run"
                )
            except psutil.Error:
                return False

        return [process for process in psutil.process_iter() if is_ours(process)]

    def kill_templates(self) -> None:
        for template in self.templates():
            template.kill()

    def clear(self) -> None:
        for run in self._started:
            run.kill()
            with run:
                pass
        self.kill_templates()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    made = Runs(tmp_path_factory.mktemp("forked"))
    yield made
    made.clear()


@pytest.fixture
def own_runs(tmp_path: Path) -> Iterator[Runs]:
    """Runs whose template no other test uses."""
    made = Runs(tmp_path)
    yield made
    made.clear()


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


def test_an_unknown_start_method_is_refused(runs: Runs) -> None:
    run = runs.start("report", method="thread")
    assert "SLUICE_START_METHOD: expected fork or spawn, got 'thread'" in run.communicate()[1]
    assert run.returncode == 1


WORKER = """
import asyncio, os, sys
from prefect.utilities.processutils import run_process as of_prefect
from deployments.processes import direct

async def main():
    direct._ENGINE = "a_program"
    command = [sys.argv[1], "-m", "deployments.processes.run"]
    ended = await direct.run_process(command, run=of_prefect, stream_output=True, env=dict(os.environ), cwd=os.getcwd())
    print("ended", type(ended).__name__, ended.pid, ended.returncode, flush=True)

asyncio.run(main())
"""
RUN_ID = "0d4bf8f4-7a4c-4d43-9c3d-5a7c8f5a2f10"


def _worker(runs: Runs, program: str, *, command: str = sys.executable, **environ: str) -> subprocess.Popen[str]:
    """Start a worker whose run is this program."""
    (runs.modules / "a_program.py").write_text(
        f"import os, signal, sys, time\nprint(os.getpid(), flush=True)\n{program}\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, command],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(runs.modules), str(Path(__file__).parents[2])]),
            "SLUICE_STATE_DIR": str(runs.state),
            "PREFECT__FLOW_RUN_ID": RUN_ID,
            **environ,
        },
        cwd=runs.modules.parent,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("program", "code"),
    [("", 0), ("sys.exit(3)", 3), ("os._exit(5)", 5), ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL)],
)
def test_a_worker_forks_a_run_without_a_command(own_runs: Runs, program: str, code: int) -> None:
    with _worker(own_runs, program) as worker:
        out, _ = worker.communicate(timeout=120)
    pid, last = out.splitlines()
    assert last == f"ended ForkedProcess {pid} {code}"


def test_a_run_of_another_program_is_left_to_prefect(own_runs: Runs) -> None:
    with _worker(own_runs, "sys.exit(3)", command=sys.executable, SLUICE_START_METHOD="spawn") as worker:
        out, _ = worker.communicate(timeout=120)
    assert "ended Process" in out


@pytest.mark.parametrize("has_template", [True, False])
def test_a_forked_run_outlives_its_killed_worker(own_runs: Runs, has_template: bool) -> None:
    with _worker(own_runs, "time.sleep(600)") as worker:
        assert worker.stdout
        pid = int(worker.stdout.readline())
        found = [process.pid for run, process in flow_run_processes(own_runs.state) if str(run) == RUN_ID]
        if not has_template:
            own_runs.kill_templates()
        assert worker.poll() is None
        worker.kill()
        worker.wait()
        run = psutil.Process(pid)
        assert pid in found
        assert run.cmdline()[:2] == ["sluice-run", RUN_ID]
        run.terminate()
        wait_until(lambda: not psutil.pid_exists(pid) or run.status() == psutil.STATUS_ZOMBIE, "its end at a signal")
