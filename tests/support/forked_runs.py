"""Programs that are run as flow runs are: forked from a template of their own, or started anew."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil

__all__ = ["Runs"]

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

    def environment(self, **environ: str) -> dict[str, str]:
        """Return the environment in which programs of the folder run as flow runs."""
        path = os.pathsep.join([str(self.modules), str(Path(__file__).parents[2])])
        return {**os.environ, "PYTHONPATH": path, "SLUICE_STATE_DIR": str(self.state), **environ}

    def start(self, *args: str, method: str = "fork", **environ: str) -> subprocess.Popen[str]:
        started = subprocess.Popen(
            [sys.executable, "-m", "deployments.processes.run", "a_program", *args],
            env=self.environment(SLUICE_START_METHOD=method, **environ),
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
