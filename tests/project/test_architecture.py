"""The architecture: the order of imports, where Prefect may be imported, public names, and limits on lengths."""

import ast
import importlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# From the lowest to the highest: a module imports only from its own folder and from entries before it.
ORDER = [
    "tasks.errors", "tasks.base", "tasks.settings", "tasks.checks", "tasks.codec", "tasks.reservoir", "tasks.group", "tasks.pump",
    "tasks.pipeline", "tasks.state", "tasks.windows", "tasks.remote", "tasks.archive", "tasks.sinks", "tasks.nodes", "tasks.report", "tasks.testing", "tasks.feeds", "tasks",
    "flows.runtime", "flows",
    "deployments.metrics", "deployments.processes", "deployments.servers", "deployments.rollout", "deployments.show", "deployments.stack",
    "deployments.checks", "deployments.commands", "deployments", "deployments.sluice",
]  # fmt: skip

# Names that users and other folders import from the folder itself. The other folders have none; import from their modules.
PUBLIC = {
    "deployments.sluice": [  # installed as `sluice`
        "Cursor", "Delivery", "EncodeError", "Entry", "LeaseLostError", "PipelineError", "PoisonEntryError", "PumpError", "RejectedError", "Reservoir", "RetryLater", "SettingsError",
        "SluiceError", "StateConflictError", "TopicFullError", "UnavailableError", "UnreadableTopicError", "has", "inlet", "outlet", "testing",
    ],
    "flows": ["inlet", "outlet"],
    "tasks": [
        "Cursor", "Delivery", "EncodeError", "Entry", "LeaseLostError", "PipelineError", "PoisonEntryError", "PumpError", "RejectedError", "Reservoir", "RetryLater", "SettingsError",
        "SluiceError", "StateConflictError", "TopicFullError", "UnavailableError", "UnreadableTopicError", "has",
    ],
    "tasks.codec": [
        "Decoding", "Extension", "Limits", "StateCodec", "decode", "decode_fields", "decode_state", "encode", "encode_fields",
        "encode_state",
    ],
    "tasks.pipeline": ["trust"],
    "tasks.reservoir": ["Reservoir"],
    "tasks.testing": ["Bench", "Dead", "Pushed", "drain", "entries", "fake_redis", "frames", "pumped", "values"],
}  # fmt: skip

# Below `flows`, only the tasks of a one-shot run and the settings (for the Secret block inside a run) import Prefect.
MAY_IMPORT_PREFECT = {"tasks.pump.one_shot", "tasks.settings"}


@cache
def modules() -> dict[str, Path]:
    """Return the files of all modules of the project by their dotted names."""
    files = [file for floor in ("tasks", "flows", "deployments") for file in (ROOT / floor).rglob("*.py")]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


@cache
def imports(module: str) -> frozenset[str]:
    """Return every module that a module imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(modules()[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            of = node.module or ""
            found |= {f"{of}.{alias.name}" if f"{of}.{alias.name}" in modules() else of for alias in node.names}
    return frozenset(found)


def place(module: str) -> str:
    """Return the entry of `ORDER` that a module belongs to: the module itself if it has one, else its folder."""
    return max((each for each in ORDER if f"{module}.".startswith(f"{each}.")), key=len)


def arrows() -> Iterator[tuple[str, str]]:
    """Yield each import between two modules of the project."""
    for module in modules():
        for other in imports(module) & modules().keys():
            yield module, other


def test_every_folder_has_a_place_in_the_order() -> None:
    folders = {module for module, file in modules().items() if file.name == "__init__.py"}
    assert folders <= set(ORDER)


def test_no_module_imports_from_a_higher_folder() -> None:
    upwards = [(a, b) for a, b in arrows() if ORDER.index(place(a)) < ORDER.index(place(b))]
    assert not upwards


def test_imports_form_no_circle() -> None:
    left = {module: {other for a, other in arrows() if a == module} - {module} for module in modules()}
    while free := [module for module, others in left.items() if not others & left.keys()]:
        for module in free:
            del left[module]
    assert not left, "these modules import one another, or a module in such a circle"


def test_only_named_modules_below_flows_import_prefect() -> None:
    importing = {
        m for m in modules() if m.startswith("tasks") and any(i.partition(".")[0] == "prefect" for i in imports(m))
    }
    assert importing == MAY_IMPORT_PREFECT


@pytest.mark.parametrize("folder", [module for module, file in modules().items() if file.name == "__init__.py"])
def test_public_names_of_a_folder_are_pinned(folder: str) -> None:
    names = getattr(importlib.import_module(folder), "__all__", [])
    assert list(names) == PUBLIC.get(folder, [])


def test_no_module_has_more_than_400_lines() -> None:
    longest = {module: len(file.read_text().splitlines()) for module, file in modules().items()}
    assert not {module: lines for module, lines in longest.items() if lines > 400}


def test_names_of_tests_have_at_most_80_characters() -> None:
    trees = [ast.parse(file.read_text()) for file in (ROOT / "tests").rglob("test_*.py")]
    names = [node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert not [name for name in names if len(name) > 80]
