"""`sluice new` writes all files of a working flow or none, and changes nothing else."""

import ast
import errno
import io
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
import yaml
from rich.console import Console

from deployments.commands.init import init
from deployments.commands.new import new, with_deployment
from deployments.commands.new_templates import CLONE, next_steps
from deployments.rollout.blueprint import read_blueprint
from tasks.errors import SettingsError
from tasks.testing import Pushed

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a checkout with only the files that the command reads."""
    for name in ("flows", "tests"):
        (tmp_path / name).mkdir()
    shutil.copy(ROOT / "prefect.yaml", tmp_path)
    shutil.copy(ROOT / "flows" / "clock.py", tmp_path / "flows")
    return tmp_path


def contents(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.suffix in {".py", ".yaml"}
    }


@pytest.mark.slow
def test_new_inlets_and_outlets_deploy_and_their_tests_pass_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, output = tmp_path / "checkout", io.StringIO()
    # In a fresh checkout, pytest creates its cache under another name first.
    unwanted = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "docs", "pytest-cache-files-*")
    shutil.copytree(ROOT, root, ignore=unwanted)
    monkeypatch.setattr(sys, "path", sys.path.copy())  # Prefect adds the folder of each flow that it imports
    new(Console(file=output), "inlet", "rooms", root=root)
    new(Console(file=output), "inlet", "bids", root=root, topic="market")  # all its inlets declare the same limits
    assert "wrote flows/rooms.py" in output.getvalue()
    assert "make test ARGS=tests/test_bids.py" in output.getvalue()
    command = [sys.executable, "-m", "deployments", "new", "outlet", "warm", "--topic", "rooms"]
    subprocess.run(command, cwd=root, capture_output=True, timeout=240, check=True)
    made = {each.entrypoint.rpartition(":")[2]: each for each in read_blueprint(root / "prefect.yaml").deployments}
    assert (made["rooms"].beats, made["warm"].stays_up, made["bids"].beats) == (True, True, True)
    tests = [*(f"tests/test_{name}.py" for name in ("rooms", "warm", "bids")), "tests/rollout/test_prefect_yaml.py"]
    others = "not cannot_be_imported and not whatever_its_function"  # each in a process and with files of its own
    for check in (["pytest", "-q", "-k", others, *tests], ["ruff", "check", "."]):
        done = subprocess.run(
            [sys.executable, "-m", *check], cwd=root, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("kind", "peeks"), [("inlet", ["sluice peek rooms --follow"]), ("outlet", [])])
def test_next_steps_are_those_of_the_pages_with_aligned_comments(
    kind: Literal["inlet", "outlet"], peeks: list[str]
) -> None:
    output = next_steps(kind, CLONE, name="weather_station", topic="rooms")
    lines = [line for line in output.splitlines() if line.startswith("  ")]
    assert [line.partition("#")[0].strip() for line in lines] == [
        "make test ARGS=tests/test_weather_station.py",
        "prefect deploy --all",
        "prefect deployment run weather_station/weather_station",
        *peeks,
    ]
    assert len({line.index("#") for line in lines}) == 1


def test_new_refuses_a_bad_name_in_one_sentence() -> None:
    command = [sys.executable, "-m", "deployments", "new", "inlet", "redis", "--topic", "rooms"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("sluice: 'redis' is a name")


def test_a_new_test_fails_when_its_pipeline_drops_an_entry(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new(Console(file=io.StringIO()), "outlet", "warm", root=checkout)
    flow = (checkout / "flows" / "warm.py").read_text()
    (checkout / "dropping.py").write_text(flow.replace("wanted.map", "wanted.unique(key=tuple).map"))
    monkeypatch.syspath_prepend(checkout)
    namespace = {}
    exec((checkout / "tests" / "test_warm.py").read_text().replace("flows.warm", "dropping"), namespace)
    pushed = [Pushed({"number": n}, topic="machine", id=f"{n}-0") for n in (1, 2)]
    with pytest.raises(AssertionError):
        namespace["test_the_wanted_entries_come_out_in_push_order"].hypothesis.inner_test(pushed, None)


def test_prefect_yaml_keeps_every_line_it_had(checkout: Path) -> None:
    before = (checkout / "prefect.yaml").read_text()
    new(Console(file=io.StringIO()), "outlet", "warm", root=checkout)
    added = (checkout / "prefect.yaml").read_text()
    assert added.startswith(before.rstrip("\n"))
    assert yaml.safe_load(added)["deployments"][-1]["name"] == "warm"
    assert not list(checkout.glob(".*")), "nothing is left of the writing"


BLOCK = "# new\n- name: new\n  tags: [a]\n"


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("deployments:\n  - name: a\n", "deployments:\n  - name: a\n\n  # new\n  - name: new\n    tags: [a]\n"),
        ("deployments:\n- name: a # last", "deployments:\n- name: a # last\n\n# new\n- name: new\n  tags: [a]\n"),
        (
            "deployments:\n  - {name: a}\n  # of a\n\n# of b\nb: 1\n",
            "deployments:\n  - {name: a}\n  # of a\n\n  # new\n  - name: new\n    tags: [a]\n\n# of b\nb: 1\n",
        ),
        (
            "x: &x 1\ndeployments:\n  - name: a\n    x: *x\n\nname: sluice\n",
            "x: &x 1\ndeployments:\n  - name: a\n    x: *x\n\n  # new\n  - name: new\n    tags: [a]\n\nname: sluice\n",
        ),
        (
            "deployments:\n  - name: |\n      a\n",
            "deployments:\n  - name: |\n      a\n\n  # new\n  - name: new\n    tags: [a]\n",
        ),
    ],
)
def test_a_new_deployment_follows_the_others_in_the_file(text: str, made: str) -> None:
    assert with_deployment(text, BLOCK, where=Path("prefect.yaml")) == made


@pytest.mark.parametrize(
    ("text", "block"),
    [
        ("deployments: []\n", BLOCK),
        ("deployments: [{name: a}]\n", BLOCK),
        ("deployments:\n  - name: a\n", "- <<: *inlet\n"),
    ],
)
def test_a_list_that_cannot_be_added_to_is_left_alone(text: str, block: str) -> None:
    with pytest.raises(SettingsError, match="nothing was written; add the block by hand"):
        with_deployment(text, block, where=Path("prefect.yaml"))


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("inlet", "Rooms", "expected a name of up to 40 small letters"),
        ("inlet", "2rooms", "expected a name of up to 40 small letters"),
        ("inlet", "../rooms", "expected a name of up to 40 small letters"),
        ("outlet", "a" * 41, "expected a name of up to 40 small letters"),
        ("outlet", "class", "expected a name of up to 40 small letters"),
        ("outlet", "redis", "which flows/redis.py would hide; choose another, such as 'redis_outlet'"),
        ("inlet", "queue", "which flows/queue.py would hide"),
        ("inlet", "print", "which flows/print.py would hide"),
        ("inlet", "scale", "the new files use for something else"),
        ("outlet", "described", "the new files use for something else"),
        ("outlet", "run", "the new files use for something else"),
        ("outlet", "clock", "flows/clock.py is there already"),
        ("outlet", "mine", "tests/test_mine.py is there already"),
        ("inlet", "movers", "a deployment of a flow 'movers' already"),
    ],
)
def test_a_name_that_means_something_else_is_refused_and_nothing_is_written(
    checkout: Path, kind: str, name: str, message: str
) -> None:
    (checkout / "tests" / "test_mine.py").touch()
    before = contents(checkout)
    with pytest.raises(SettingsError, match=message):
        new(Console(file=io.StringIO()), kind, name, root=checkout)  # type: ignore[arg-type]
    assert contents(checkout) == before


@pytest.mark.parametrize("breaks", ["the last step", "the test's folder"])
def test_failed_write_leaves_nothing_behind(checkout: Path, monkeypatch: pytest.MonkeyPatch, breaks: str) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if breaks == "the last step":
        monkeypatch.setattr(os, "replace", full)
    else:
        (checkout / "tests").rmdir()
    before = contents(checkout)
    with pytest.raises(SettingsError, match=r"cannot be written \(No .*\); nothing was written"):
        new(Console(file=io.StringIO()), "outlet", "warm", root=checkout)
    assert contents(checkout) == before
    assert not list(checkout.glob(".*"))


def test_schedules_of_new_inlets_begin_apart_from_those_there_are(checkout: Path) -> None:
    (checkout / "prefect.yaml").write_text(
        "definitions: {inlet: &inlet {name: main, tags: [inlet]}, every_10_minutes: &every_10_minutes {slug: a, interval: 600}}\n"
        "deployments:\n  - name: trim\n    entrypoint: a.py:b\n    schedules:\n"
        '      - {slug: a, interval: 300, anchor_date: "2026-01-01T00:00:10+00:00"}\n'
    )
    for name in ("one", "two", "three"):
        new(Console(file=io.StringIO()), "inlet", name, root=checkout)
    schedules = yaml.safe_load((checkout / "prefect.yaml").read_text())["deployments"]
    assert [each["schedules"][0]["anchor_date"][14:19] for each in schedules] == ["00:10", "02:40", "07:35", "01:25"]


@pytest.mark.parametrize("topic", ["orders:eu", "two words", "a\"b'c\\d", "$name {name}", "行情"])
def test_new_flows_take_any_topic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, topic: str) -> None:
    monkeypatch.setattr(sys, "path", sys.path.copy())  # Prefect adds the folder of each flow that it imports
    init(Console(file=(said := io.StringIO()), width=200), tmp_path)
    kinds: dict[Literal["inlet", "outlet"], str] = {"inlet": "topic", "outlet": "topics"}
    for kind, parameter in kinds.items():
        new(Console(file=said), kind, f"my_{kind}", root=tmp_path, topic=topic)
        written = ast.parse((tmp_path / "pipelines" / f"my_{kind}.py").read_text())
        ast.parse((tmp_path / "tests" / f"test_my_{kind}.py").read_text())
        given = {keyword.arg: keyword.value for keyword in _decorator(written, f"my_{kind}").keywords}
        assert ast.literal_eval(given[parameter]) == topic
    assert f"sluice peek {shlex.quote(topic)} --follow" in said.getvalue()


def _decorator(module: ast.Module, name: str) -> ast.Call:
    [function] = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == name]
    [decorator] = function.decorator_list
    assert isinstance(decorator, ast.Call)
    return decorator
