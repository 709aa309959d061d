"""`sluice init` makes a project, in which every command works with Sluice installed from a wheel."""

import contextlib
import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
from importlib.metadata import Distribution
from pathlib import Path

import psutil
import pytest
import yaml
from rich.console import Console

from deployments.commands.init import init
from deployments.commands.init_requirement import Requirement, requirement_of
from deployments.commands.new import new
from deployments.rollout.blueprint import read_blueprint
from deployments.servers.child import Child
from tasks.base.project_folder import PACKAGES, find_project
from tasks.errors import SettingsError
from tests.support.plain import ROOT, entries
from tests.support.ports import reserve_port
from tests.support.waiting import wait_until
from tests.support.wheels import Installed, build_wheel


def made(folder: Path, *, with_examples: bool = False) -> str:
    output = io.StringIO()
    init(Console(file=output, width=200), folder, with_examples=with_examples)
    return output.getvalue()


def contents(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def declared(file: Path) -> dict:
    return yaml.safe_load(file.read_text())


def as_installed(deployments: list[dict]) -> list[dict]:
    """Return the clone's deployments with the entrypoints of an installed Sluice."""
    return [
        each | {"entrypoint": re.sub(r"flows/(\w+)\.py:(\w+)", r"flows.\1.\2", each["entrypoint"])}
        for each in deployments
    ]


def texts_of(deployments: list[dict]) -> list[str]:
    return sorted(json.dumps(each, sort_keys=True) for each in deployments)


@pytest.mark.parametrize("with_examples", [False, True])
def test_init_deploys_the_clones_flows_and_its_own(tmp_path: Path, with_examples: bool) -> None:
    made(tmp_path, with_examples=with_examples)
    clone, project = declared(ROOT / "prefect.yaml"), declared(tmp_path / "prefect.yaml")
    for key in ("pull", "prefect-version"):
        assert project[key] == clone[key]
    # Those of the clone also serve blocks of older versions.
    for name, definition in project["definitions"].items():
        assert definition == {key: clone["definitions"][name][key] for key in definition}
        assert clone["definitions"][name].keys() - definition.keys() <= {"name"}
    own = [each for each in project["deployments"] if each["entrypoint"].startswith("pipelines/")]
    assert [each["entrypoint"] for each in own] == ["pipelines/memory.py:memory", "pipelines/memory.py:trend"]
    shipped = as_installed(clone["deployments"])
    expected = [each for each in shipped if with_examples or "upkeep" in each["tags"]]
    given = [each for each in project["deployments"] if each not in own]
    assert texts_of(given) == texts_of(expected)
    assert find_project() != tmp_path
    with contextlib.chdir(tmp_path):
        assert find_project() == tmp_path


def test_init_keeps_files_that_exist_and_names_them(tmp_path: Path) -> None:
    mine = {
        "main.py": "print()\n",
        "requirements.txt": "numpy\n",
        "tests/conftest.py": "",
        "pipelines/__init__.py": "# mine\n",
        "pipelines/other.py": "",
        ".gitignore": "*.log\n/.venv\n.sluice",
        "flows/of_mine.py": "",  # a folder without __init__.py hides no package
    }
    for name, text in mine.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    output = made(tmp_path)
    found = contents(tmp_path)
    assert {name: found[name] for name in mine if name != ".gitignore"} == {
        name: text for name, text in mine.items() if name != ".gitignore"
    }
    assert found[".gitignore"] == f"{mine['.gitignore']}\nprefect.toml\n__pycache__/\n.hypothesis/\n.pytest_cache/\n"
    for name in ("requirements.txt", "tests/conftest.py", "pipelines/__init__.py"):
        assert f"kept {name}: " in output
    assert "kept requirements.txt: add this line to it: " in output
    for name in set(found) - set(mine):
        assert f"wrote {name}\n" in output


def test_init_ignores_the_login_and_the_data_of_sluice_up(tmp_path: Path) -> None:
    made(tmp_path)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    secret = [".sluice/prefect-login", "prefect.toml"]
    done = subprocess.run(["git", "check-ignore", *secret], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.split() == secret


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("prefect.yaml", r"expected no prefect.yaml in .*; make the project in a folder of its own"),
        ("tasks.py", r"expected no tasks.py in .*: a run would import it instead of Sluice's package"),
        ("flows/__init__.py", r"expected no flows/__init__.py in .*: a run would import it"),
        ("pipelines/memory.py", "expected no pipelines/memory.py in .*; rename the existing files"),
        ("tests/test_memory.py", "expected no tests/test_memory.py in "),
    ],
)
def test_init_refuses_files_that_clash_and_writes_nothing(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("# mine\n")
    with pytest.raises(SettingsError, match=f"{message}.*"):
        init(Console(file=io.StringIO()), tmp_path)
    assert contents(tmp_path) == {name: "# mine\n"}


def test_init_refuses_the_clone_of_sluice_and_files(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder, message in ((ROOT / "docs", "outside Sluice's own code"), (tmp_path / "file", "expected a folder")):
        with pytest.raises(SettingsError, match=message):
            init(Console(file=io.StringIO()), folder)


def test_init_removes_its_files_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def full(path: Path, *args: str, **kwargs: str) -> object:
        if path.name == "requirements.txt":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(SettingsError, match=r"requirements.txt: cannot be written \(No space.*nothing was written"):
        init(Console(file=io.StringIO()), tmp_path)
    assert contents(tmp_path) == {}


def installed_from(folder: Path, origin: dict | None) -> Distribution:
    """Return a distribution of Sluice with pip's record of its origin."""
    info = folder / "sluice-1.2+local.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sluice\nVersion: 1.2+local\n")
    if origin:
        (info / "direct_url.json").write_text(json.dumps(origin))
    return Distribution.at(info)


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (None, Requirement("sluice[testing]==1.2+local")),
        (
            {"url": "https://me:hunter2@a.example/s.git", "vcs_info": {"vcs": "git", "commit_id": "0a1b"}},
            Requirement("sluice[testing] @ git+https://a.example/s.git@0a1b"),
        ),
        (
            {"url": "https://a.example/sluice-1.2-py3-none-any.whl", "archive_info": {}},
            Requirement("sluice[testing] @ https://a.example/sluice-1.2-py3-none-any.whl"),
        ),
        (
            {"url": "file:///gone/a%20b/sluice-1.2-py3-none-any.whl", "archive_info": {}},
            Requirement(
                "./wheels/sluice-1.2-py3-none-any.whl[testing]",
                command="python -m pip wheel --no-deps --wheel-dir wheels '/gone/a b/sluice-1.2-py3-none-any.whl'",
            ),
        ),
        (
            {"url": "file:///src/clone", "dir_info": {"editable": True}},
            Requirement(
                "./wheels/sluice-1.2+local-py3-none-any.whl[testing]",
                command="python -m pip wheel --no-deps --wheel-dir wheels /src/clone",
            ),
        ),
    ],
)
def test_requirement_names_where_sluice_came_from(tmp_path: Path, origin: dict | None, expected: Requirement) -> None:
    assert requirement_of(installed_from(tmp_path, origin)) == expected


def test_init_copies_the_wheel_that_sluice_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "sluice-1.2-py3-none-any.whl"
    wheel.write_text("a wheel")
    installed = installed_from(tmp_path, {"url": wheel.as_uri(), "archive_info": {}})
    monkeypatch.setattr("deployments.commands.init.distribution", lambda _: installed)
    output = made(tmp_path / "mine")
    assert (tmp_path / "mine" / "wheels" / wheel.name).read_text() == "a wheel"
    assert "copied sluice-1.2-py3-none-any.whl to wheels/" in output
    assert "pip wheel" not in output


def test_new_writes_flows_of_a_project_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path.copy())  # Prefect adds the folder of a flow that it imports
    made(tmp_path)
    output = io.StringIO()
    for kind, name in (("inlet", "rooms"), ("outlet", "warm")):
        new(Console(file=output, width=200), kind, name, root=tmp_path)  # type: ignore[arg-type]
    points = [each.entrypoint for each in read_blueprint(tmp_path / "prefect.yaml").deployments]
    assert points[-2:] == ["pipelines/rooms.py:rooms", "pipelines/warm.py:warm"]
    assert "from sluice import Entry, has, outlet\n" in (tmp_path / "pipelines" / "warm.py").read_text()
    assert 'topics="memory"' in (tmp_path / "pipelines" / "warm.py").read_text()
    for text in ("wrote pipelines/rooms.py", "python -m pytest tests/test_warm.py", "`sluice up` does that"):
        assert text in output.getvalue()
    assert "make " not in output.getvalue()
    assert not [path for path in (tmp_path / "pipelines").iterdir() if path.stem in PACKAGES]


def test_new_asks_for_a_topic_where_no_shipped_inlet_is_deployed(tmp_path: Path) -> None:
    made(tmp_path)
    file = tmp_path / "prefect.yaml"
    file.write_text(file.read_text().replace("memory.py:memory", "memory.py:other"))
    with pytest.raises(SettingsError, match="expected --topic, the topic that the outlet reads"):
        new(Console(file=io.StringIO()), "outlet", "warm", root=tmp_path)


# -- with a real wheel --------------------------------------------------------------------------------------------------


class Project:
    """A project whose environment has Sluice from a wheel, and nothing from this clone."""

    def __init__(self, folder: Path, installed: Installed) -> None:
        self.folder = folder
        self.installed = installed
        self.port = reserve_port()
        self.child = Child(
            "sluice up",
            [str(installed.bin / "sluice"), "up", "--port", str(self.port)],
            log=folder.parent / "up.log",
            env=installed.environment(COLUMNS="150"),
            cwd=folder,
        )
        self.redis = f"unix://{folder / '.sluice' / 'redis' / 'redis.sock'}"

    def run(self, program: str, *arguments: str) -> str:
        return self.installed.run(program, *arguments, cwd=self.folder)

    def has_printed(self, text: str) -> bool:
        assert self.child.running, self.child.log.read_text()
        return text in self.child.log.read_text()

    def processes(self) -> list[psutil.Process]:
        """Return every process of the project's stack."""
        found = []
        for process in psutil.process_iter(["environ", "cmdline"]):
            named = (process.info["environ"] or {}).get("SLUICE_STATE_DIR") == str(self.folder / ".sluice")
            if named or str(self.folder / ".sluice") in " ".join(process.info["cmdline"] or []):
                found.append(process)
        return found

    def stop(self) -> None:
        os.kill(self.child.pid or 0, signal.SIGINT)
        wait_until(lambda: not self.child.running, "Ctrl-C to end it")
        assert self.child.exit_code == 0, self.child.log.read_text()
        wait_until(lambda: not self.processes(), "the processes of the runs to end")

    def kill(self) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.child.kill()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_project_of_ones_own_runs_from_a_wheel_and_upgrades(tmp_path: Path) -> None:
    installed = Installed(tmp_path / "venv", build_wheel(tmp_path / "build"))
    installed.run("sluice", "init", "mine", cwd=tmp_path)
    mine = tmp_path / "mine"
    installed.run("sluice", "new", "inlet", "rooms", cwd=mine)
    installed.run("sluice", "new", "outlet", "warm", "--topic", "rooms", cwd=mine)
    assert "passed" in installed.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=mine)
    project = Project(mine, installed)
    try:
        project.child.start()
        wait_until(lambda: project.has_printed("trend Running"), "the outlet to run", deadline=240)
        wait_until(lambda: project.has_printed("mean   │"), "a result of the outlet to be shown", deadline=240)
        clone = str(ROOT / "deployments")
        assert not [each for each in project.processes() if clone in " ".join(each.info["cmdline"] or [])]

        assert "trend/trend" in project.run("sluice", "status")
        assert "used" in project.run("sluice", "peek", "memory")
        doctor = project.run("sluice", "doctor")
        assert "as Sluice requires them" in doctor
        assert " 0 fail" in doctor
        project.run("python", "-m", "prefect", "--no-prompt", "deploy", "--all")
        project.run("sluice", "restart", "trend")
        project.stop()
        before = project.run("python", "-c", "import deployments; print(deployments.__file__)")
        assert before.startswith(str(installed.packages))

        installed.install(build_wheel(tmp_path / "newer", version="0.1.0.post1"))
        version = "from importlib.metadata import version; print(version('sluice'))"
        assert project.run("python", "-c", version).strip() == "0.1.0.post1"
        project.child.start()
        wait_until(lambda: entries(project.redis, "memory"), "the data of before", deadline=240)
        kept = entries(project.redis, "trend")
        assert kept > 0
        wait_until(lambda: entries(project.redis, "trend") > kept, "more results than before", deadline=240)
        project.stop()
    finally:
        project.kill()
