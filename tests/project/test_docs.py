"""README and docs: files, Python code, deployments and links work; test_docs_commands.py has the commands."""

import importlib
import importlib.util
import inspect
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import redis
from prefect import Flow
from prefect.cli.deploy._models import PrefectYamlModel
from prefect.flows import load_flow_from_entrypoint
from streamz import Stream

import flows
from deployments.servers.redis_server import RedisServer
from tasks import Reservoir
from tasks.pump.returned import as_entries
from tasks.reservoir.groups import groups_of
from tasks.settings import REDIS_URL
from tests.project.test_architecture import PUBLIC
from tests.rollout import test_prefect_yaml as declared
from tests.support.documents import (
    PAGES,
    ROOT,
    Block,
    anchors,
    blocks,
    checkout_with,
    commands,
    deployments_shown,
    files_shown,
    links,
    names_of_tests,
)
from tests.support.streams import dead, run
from tests.support.waiting import wait_until

# Python blocks that another test runs, by a part of their text.
RUN_BY = {
    "Secret(": "reservoir/test_secured_redis.py::test_flow_run_uses_the_documented_secret_block",
    "sensors_pb2": "codec/test_other_programs.py::test_protobuf_is_decoded_by_the_function_of_the_page",
    ".sluice/archive": "archive/test_archive_readers.py::test_code_on_the_page_reads_an_archive",
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with all files that pages show."""
    return checkout_with(files_shown(), tmp_path_factory.mktemp("checkout"))


@pytest.fixture
def shown(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Return a function that imports a file from a page; modules such as `flows.network` belong to `flows`."""
    monkeypatch.setattr(flows, "__path__", [*flows.__path__, str(checkout / "flows")])

    def load(name: str) -> ModuleType:
        if name.startswith("flows/"):
            return importlib.import_module(name.removesuffix(".py").replace("/", "."))
        return loaded(checkout / name)

    return load


# -- files --------------------------------------------------------------------------------------------------------------------


def test_every_block_has_a_language_that_is_checked() -> None:
    for block in blocks():
        assert block.language in {"sh", "python", "yaml", "ini", "text", "pycon", "mermaid"}, (
            f"{block}: {block.language!r}"
        )
        if block.language == "pycon":  # docstrings, which pytest runs with --doctest-modules
            assert block.page.name == "reference.md", block
        if block.language == "mermaid":
            drawn = block.text.splitlines()[1:]
            assert {node for line in drawn for node in re.findall(r"^  (\w+) -", line)} <= set(
                re.findall(r"\b(\w+)\[", block.text)
            ), f"{block}: an arrow begins at a node that has no text"
        if block.language == "text":
            assert not re.match(r"(\$|make|sluice|prefect) ", block.text), (
                f"{block}: commands belong into a block of sh"
            )


def loaded(path: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def flows_in(module: ModuleType) -> list[Flow[..., Any]]:
    return [value for value in vars(module).values() if isinstance(value, Flow) and value.name in vars(module)]


@pytest.mark.parametrize("name", [name for name in files_shown() if name.startswith("flows/")])
def test_flows_on_pages_pump_and_stream(shown: Callable[[str], ModuleType], name: str, real_redis: redis.Redis) -> None:
    reservoir = Reservoir(real_redis)
    found = flows_in(shown(name))
    assert found
    inlets = [flow for each in files_shown() if each.startswith("flows/") for flow in flows_in(shown(each))]
    for flow in inlets:  # one file's outlet may read another file's inlet
        options = declared._defaults(flow)
        if hasattr(flow, "pump"):
            for entries in (as_entries(flow.pump(), name=flow.name) for _ in range(12)):
                reservoir.push_many(options["topic"], entries)
    for flow in found:
        if hasattr(flow, "build"):
            topic = declared._defaults(flow)["topics"]
            run(lambda source, build=flow.build: build(source).to_redis("results"), real_redis, topic)
            assert real_redis.xlen("results")
            assert dead(real_redis, topic) == []


@pytest.mark.parametrize("name", [name for name in files_shown() if name.startswith("tests/")])
def test_tests_on_pages_pass(shown: Callable[[str], ModuleType], name: str) -> None:
    tests = [value for each, value in vars(shown(name)).items() if each.startswith("test_")]
    assert tests
    for test in tests:
        test()


def is_run_here(block: Block) -> bool:
    return not block.file and not any(part in block.text for part in RUN_BY)


@pytest.mark.parametrize("block", [each for each in blocks("python") if is_run_here(each)], ids=str)
def test_python_on_pages_runs(
    block: Block, real_redis: redis.Redis, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(REDIS_URL, redis_server.url)
    Reservoir(real_redis).push("market", {"quotes": [1, 2]})
    names: dict[str, Any] = {}
    exec(compile(block.text, str(block), "exec"), names)
    if source := names.get("source"):
        wait_until(lambda: source.stopped or not pending_or_unread(real_redis, source.group), "the entry's end")
        source.stop()
        source.join(20)


def pending_or_unread(client: redis.Redis, group: str) -> bool:
    known: Any = client
    last = known.xinfo_stream("market")["last-generated-id"]
    found = groups_of(client, "market").get(group)
    return not found or found["pending"] or found["last-delivered-id"] != last


def test_deployments_on_pages_are_complete_and_their_flows_load(checkout: Path) -> None:
    added = deployments_shown()
    assert added
    PrefectYamlModel.model_validate({**declared.RAW, "deployments": added})
    for deployment in added:
        assert not declared.unknown_keys("deployment", deployment)
        for schedule in deployment.get("schedules") or ():
            assert not declared.unknown_keys("schedule", schedule)
            assert schedule["slug"]
        for trigger in deployment.get("triggers", []):  # after a crash, the shipped automations run it again
            assert not declared.unknown_keys("trigger", trigger)
            assert all(event.startswith("sluice.") for event in trigger["expect"])
        flow = load_flow_from_entrypoint(str(checkout / deployment["entrypoint"]), use_placeholder_flow=False)
        flow.validate_parameters({**declared._defaults(flow), **deployment.get("parameters", {})})


def test_systemd_accepts_the_units_on_pages(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if not analyze:
        pytest.skip("no systemd-analyze here")
    units = []
    for block in blocks("ini"):
        match = re.match(r"# /etc/systemd/system/([\w-]+\.service)\n", block.text)
        assert match, block
        unit = tmp_path / match[1]
        programs = str(Path(sys.executable).parent)
        unit.write_text(block.text.replace("/opt/sluice/.venv/bin", programs).replace("/opt/sluice", str(ROOT)))
        units.append(str(unit))
    done = subprocess.run([analyze, "verify", *units], capture_output=True, text=True, check=False, timeout=240)
    ours = [line for line in (done.stdout + done.stderr).splitlines() if str(tmp_path) in line or "sluice" in line]
    assert not ours, ours
    assert done.returncode == 0, done.stderr


# -- pages --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_images_resolve(page: Path) -> None:
    for link in links(page):
        target, _, anchor = link.partition("#")
        if target.startswith("https://"):
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), link
        assert not anchor or anchor in anchors(path), link


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    listed = {(index.parent / link.partition("#")[0]).resolve() for link in links(index)}
    assert {*(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("*.ipynb")} - {index} <= listed


def test_python_blocks_run_by_other_tests_name_existing_tests() -> None:
    for part, test in RUN_BY.items():
        file, _, name = test.partition("::")
        assert name in names_of_tests(ROOT / "tests" / file)
        assert any(part in block.text for block in blocks("python"))


def test_tests_named_on_pages_exist() -> None:
    named = 0
    for page in PAGES:
        for file, rest in re.findall(r"\]\(((?:\.\./)?tests/[\w/]+\.py)\):((?:[\s,]*`test_\w+`)+)", page.read_text()):
            for name in re.findall(r"`(test_\w+)`", rest):
                named += 1
                assert name in names_of_tests((page.parent / file).resolve()), f"{page.name}: {name}"
    guarantees = (ROOT / "docs" / "guarantees.md").read_text()
    assert named >= len(re.findall(r"`test_\w+`", guarantees))


def test_reference_matches_the_docstrings() -> None:
    script = loaded(ROOT / "docs" / "make_reference.py")
    assert script.FILE.read_text() == script.reference(), "run: python docs/make_reference.py"


def test_reference_has_every_public_name() -> None:
    text = (ROOT / "docs" / "reference.md").read_text()
    found = {
        *re.findall(r"^### `@?(?:Stream)?\.?(\w+)", text, re.MULTILINE),
        *re.findall(r"^ *- `(\w+)`: ", text, re.MULTILINE),  # the tree of errors
    }
    packages = ("deployments.sluice", "flows", "tasks", "tasks.pipeline", "tasks.testing")
    public = {name for package in packages for name in PUBLIC[package]} - {"testing"}
    public |= {name for name, node in vars(Stream).items() if of_sluice(node) and not name.startswith("_")}
    for block in blocks("python"):
        for module, names in re.findall(r"^from ((?:tasks|sluice)[\w.]*) import ([\w, ]+)", block.text, re.MULTILINE):
            public |= set() if module == "tasks.nodes" else set(names.replace(" ", "").split(","))
    assert len(public) > 40
    assert public <= found


def of_sluice(node: Any) -> bool:
    """Return whether an attribute of `Stream` is a node that Sluice has registered."""
    made = inspect.unwrap(getattr(node, "__func__", node)) if callable(node) or isinstance(node, staticmethod) else node
    return str(getattr(made, "__module__", "")).startswith("tasks.nodes")


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_a_chinese_page_has_the_commands_and_code_of_the_english_page(page: str) -> None:
    def code(page: str) -> list[tuple[str, Any]]:
        found = [each for each in blocks("sh", "python", "yaml") if each.page == ROOT / page]
        return [(each.language, commands(each) if each.language == "sh" else each.text) for each in found]

    assert code(page.replace(".md", ".zh.md")) == code(page)


def test_notebook_runs(real_redis: redis.Redis, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REDIS_URL, redis_server.url)
    cells = json.loads((ROOT / "docs" / "notebook.ipynb").read_text())["cells"]
    names: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "notebook.ipynb", "exec"), names)
    assert real_redis.xlen("notebook-moves") > 0
