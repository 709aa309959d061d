"""Reading `prefect.yaml` and importing its flows: any content is read, or refused with its place and reason."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from deployments.rollout.apply import Rollout
from deployments.rollout.blueprint import EntrypointCheck, allowance, import_flows, read_blueprint
from tasks.errors import SettingsError, UnavailableError
from tests.rollout.test_prefect_yaml import DEPLOYMENTS

ROOT = Path(__file__).resolve().parents[2]


def test_a_flow_that_cannot_be_imported_is_named_with_the_reason_and_the_line(tmp_path: Path) -> None:
    files = {
        "broken.py": "print('noise')\nimport no_such_module\n",
        "unfinished.py": "x = 1\ndef x(:\n",
        "wrong.py": "from flows import inlet\n\n@inlet(topic='a topic ')\ndef wrong(): ...\n",
        "through.py": "import helper\n",
        "helper.py": "import json\n\njson.loads('')\n",
        "fine.py": "from prefect import flow\n@flow(name='other')\ndef fine(): ...\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    points = [
        "broken.py:x",
        "broken.py:y",
        "unfinished.py:x",
        "wrong.py:wrong",
        "through.py:x",
        "fine.py:fine",
        "fine.py:y",
    ]
    blocks = [{"name": f"n{n}", "entrypoint": point} for n, point in enumerate(points)]
    (tmp_path / "prefect.yaml").write_text(yaml.safe_dump({"deployments": blocks}))
    check = EntrypointCheck(read_blueprint(tmp_path / "prefect.yaml"), env=os.environ)
    with pytest.raises(SettingsError) as raised:
        check.result()
    message = str(raised.value)
    assert "deployed" not in message, "`sluice doctor` asks, too"
    assert "broken.py:x, y: ModuleNotFoundError: No module named 'no_such_module' (broken.py, line 2)" in message
    assert "unfinished.py:x: SyntaxError: invalid syntax (unfinished.py, line 2)" in message
    assert "wrong.py:wrong: SettingsError: expected a topic name" in message
    assert "(wrong.py, line 3)" in message
    assert "through.py:x: JSONDecodeError" in message
    assert "(helper.py, line 3)" in message
    assert "fine.py:y: MissingFlowError" in message
    assert "fine.py:fine" not in message


def test_an_import_error_names_the_line_of_the_flow_file_or_the_missing_file(tmp_path: Path) -> None:
    for name in ("deployments", "flows", "tasks"):  # as in a checkout: the command's packages are in the folder, too
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    text = "from flows import inlet\n\n\n@inlet(topic='typo', every='5x')\ndef typo(): ...\n"
    (tmp_path / "flows" / "typo.py").write_text(text)
    points = ["flows/typo.py:typo", "flows/gone.py:one", "flows/gone.py:two"]
    blocks = [{"name": f"n{n}", "entrypoint": point} for n, point in enumerate(points)]
    (tmp_path / "prefect.yaml").write_text(yaml.safe_dump({"deployments": blocks}))
    with pytest.raises(SettingsError) as raised:
        EntrypointCheck(read_blueprint(tmp_path / "prefect.yaml"), env=os.environ).result()
    typo, gone = str(raised.value).partition("flows/typo.py:typo: ")[2].split("; flows/gone.py:one, two: ")
    assert typo.startswith("SettingsError: every: ")
    assert ", got '5x'; " in typo
    assert typo.endswith(" (flows/typo.py, line 4)")
    assert gone == "there is no flows/gone.py; if it was renamed, correct its entrypoint in prefect.yaml"


def test_a_deployment_is_named_after_its_flow_not_its_function(tmp_path: Path) -> None:
    (tmp_path / "fine.py").write_text("from prefect import flow\n@flow(name='other')\ndef fine(): ...\n")
    (tmp_path / "prefect.yaml").write_text("deployments: [{name: b, entrypoint: 'fine.py:fine'}]")
    blueprint = EntrypointCheck(read_blueprint(tmp_path / "prefect.yaml"), env=os.environ).result()
    assert [each.full_name for each in blueprint.deployments] == ["other/b"]


def test_entrypoints_may_name_modules_instead_of_files(tmp_path: Path) -> None:
    points = ["flows.upkeep.levels", "flows.upkeep.nothing", "flows.gone.levels"]
    blocks = [{"name": f"n{n}", "entrypoint": point} for n, point in enumerate(points)]
    (tmp_path / "prefect.yaml").write_text(yaml.safe_dump({"deployments": blocks}))
    blueprint = read_blueprint(tmp_path / "prefect.yaml")
    assert [each.function for each in blueprint.deployments] == ["levels", "nothing", "levels"]
    flows, errors = EntrypointCheck(blueprint, env=os.environ).found()
    assert flows == {"flows.upkeep.levels": "levels"}
    nothing, gone = errors
    assert nothing.startswith("flows.upkeep:nothing: MissingFlowError: ")
    assert gone == "flows.gone:levels: ModuleNotFoundError: No module named 'flows.gone'"


def test_two_deployments_of_one_name_are_refused_since_one_would_replace_the_other(tmp_path: Path) -> None:
    points = ["one.py:quotes", "two.py:quotes"]
    blocks = [{"name": "main", "entrypoint": point} for point in points]
    (tmp_path / "prefect.yaml").write_text(yaml.safe_dump({"deployments": blocks}))
    blueprint = read_blueprint(tmp_path / "prefect.yaml")
    with pytest.raises(SettingsError, match=r"quotes/main once, got it from one\.py:quotes and two\.py:quotes; give"):
        blueprint.named(dict.fromkeys(points, "quotes"))


def test_an_import_check_that_takes_too_long_is_ended_and_reported(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(600)\n")
    (tmp_path / "prefect.yaml").write_text("deployments: [{name: a, entrypoint: 'slow.py:b'}]")
    blueprint = read_blueprint(tmp_path / "prefect.yaml")
    with pytest.raises(SettingsError, match=r"importing its flows gave no answer within 0\.01 s; try it: python -c"):
        EntrypointCheck(blueprint, env=os.environ).result(timeout=0.01)
    deploying = Rollout(blueprint, log=tmp_path / "deploy.log", env=os.environ)
    with pytest.raises(UnavailableError, match=r"`prefect deploy --all` was not done within 0\.01 s; the last lines"):
        deploying.result(timeout=0.01)
    assert allowance(blueprint) > 60
    assert allowance(read_blueprint(ROOT / "prefect.yaml")) > allowance(blueprint) + len(DEPLOYMENTS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("deployments: {", "expected YAML"),
        ("deployments: [2026-13-45]", "expected YAML"),
        ("deployments: 3", "deployments: expected a list, got 3"),
        ("deployments: &a [*a]", r"deployment 1: .*, got \[\[\.\.\.\]\]"),
        ("deployments: [{name: x}]", "a file and a function, such as"),
        ("deployments: [{name: x, entrypoint: 'a.py:'}]", "entrypoint: expected a file and a function"),
        ("deployments: [{name: x, entrypoint: 'levels'}]", "or a module and a function, such as 'flows.upkeep.levels'"),
        ("deployments: [{name: x, entrypoint: 'flows.'}]", "or a module and a function, such as"),
        ('deployments: [{name: x, entrypoint: "a\\0.py:b"}]', "entrypoint: expected a file and a function"),
        ("deployments: [{name: [1], entrypoint: 'a.py:b'}]", r"name: expected text, .*, got \[1\]"),
        ("deployments: [{name: 2026-01-01, entrypoint: 'a.py:b'}]", "name: expected text, in quotes"),
        ("deployments: [3]", "deployment 1: .*, got 3"),
        ("deployments: [{name: x, entrypoint: 'a.py:b', tags: sluice}]", "tags of a.py:b: expected a list of texts"),
        ("deployments: [{name: x, entrypoint: 'a.py:b', tags: [{a: b}]}]", "tags of a.py:b: expected a list of texts"),
        ("deployments: [{name: x, entrypoint: 'a.py:b', schedules: {interval: 60}}]", "each with its keys"),
        ("deployments: [{name: x, entrypoint: 'a.py:b', schedules: [interval]}]", "each with its keys"),
        ("deployments: [{name: x, entrypoint: 'a.py:b', schedules: [{slug: [a]}]}]", "slug: expected text"),
        ("deployments: [{name: x, entrypoint: 'a.py:b', schedules: [{interval: 1min}]}]", "a number of seconds"),
        ("deployments: [{name: x, entrypoint: 'a.py:b', schedules: [{interval: .nan}]}]", "a number of seconds"),
        ("deployments: [{name: x, entrypoint: 'a.py:b', schedules: [{interval: yes}]}]", "a number of seconds"),
    ],
)
def test_a_file_with_other_content_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "prefect.yaml").write_text(text)
    with pytest.raises(SettingsError, match=message):
        read_blueprint(tmp_path / "prefect.yaml")


def test_import_flows_names_all_shipped_flows() -> None:
    entrypoints = [str(ROOT / each["entrypoint"]) for each in DEPLOYMENTS]
    flows, errors = import_flows(entrypoints)
    assert not errors
    assert set(flows.values()) == {each["entrypoint"].rpartition(":")[2] for each in DEPLOYMENTS}


def test_import_flows_imports_a_file_of_several_flows_once(tmp_path: Path) -> None:
    source = "from prefect import flow\nwith open('imports', 'a') as file:\n    file.write('.')\n"
    names = [f"flow{n}" for n in range(3)]
    (tmp_path / "several.py").write_text(source + "".join(f"@flow\ndef {name}() -> None: ...\n" for name in names))
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        for turn in (1, 2):  # the next check sees an edited file
            flows, errors = import_flows([f"several.py:{name}" for name in names])
            assert (len(flows), errors) == (3, [])
            assert Path("imports").read_text() == "." * turn
    finally:
        os.chdir(before)


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "entrypoint", "tags", "schedules", "slug", "interval"]), inner)
    ),
    max_leaves=12,
)


@given(
    st.fixed_dictionaries(
        {
            "deployments": ODD
            | st.lists(
                st.fixed_dictionaries(
                    {
                        "name": ODD | st.just("x"),
                        "entrypoint": st.just("a.py:b") | ODD,
                        "tags": ODD,
                        "schedules": ODD | st.lists(ODD),
                    }
                )
            )
        }
    )
)
def test_any_file_content_is_read_or_refused_in_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, raw: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("odd") / "prefect.yaml"
    path.write_text(yaml.safe_dump(raw, allow_unicode=True), encoding="utf-8", errors="surrogatepass")
    refusal = ""
    try:
        read_blueprint(path)
    except SettingsError as error:
        refusal = str(error)
    assert not refusal or (refusal.startswith(str(path)) and len(refusal.splitlines()) == 1)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a: \x00", None])
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "prefect.yaml"
    path.write_bytes(content) if content else path.mkdir()
    with pytest.raises(SettingsError, match="expected"):
        read_blueprint(path)
