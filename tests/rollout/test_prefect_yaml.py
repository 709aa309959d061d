"""`prefect.yaml` matches a schema of Sluice's own: Prefect 3.9.1 silently ignores unknown keys."""

import datetime as dt
import importlib
import inspect
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from prefect import Flow
from prefect.cli.deploy._models import PrefectYamlModel
from prefect.cli.deploy._triggers import _initialize_deployment_triggers
from prefect.events.schemas.automations import AutomationCore
from prefect.flows import load_flow_from_entrypoint

from deployments.rollout.apply import Rollout
from deployments.rollout.blueprint import EntrypointCheck, allowance, import_flows, read_blueprint
from deployments.servers.prefect_server import POOL
from tasks.checks import seconds
from tasks.errors import SettingsError, UnavailableError

ROOT = Path(__file__).resolve().parents[2]
RAW = yaml.safe_load((ROOT / "prefect.yaml").read_text())
DEPLOYMENTS: list[dict[str, Any]] = RAW["deployments"]
INLETS = [each for each in DEPLOYMENTS if "inlet" in each["tags"]]
REPLAYS = [each for each in DEPLOYMENTS if "replay" in each["tags"]]
UPKEEP = [each for each in DEPLOYMENTS if "upkeep" in each["tags"]]
OUTLETS = [each for each in DEPLOYMENTS if "outlet" in each["tags"]]


def entrypoint(deployment: dict[str, Any]) -> str:
    return deployment["entrypoint"]


# The flow files of this repository. A user's own ones may have no deployment and any schedule.
SHIPPED = ("alerts", "clock", "market", "upkeep", "vitals")

every = pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=entrypoint)
every_inlet = pytest.mark.parametrize("deployment", INLETS, ids=entrypoint)
every_outlet = pytest.mark.parametrize("deployment", OUTLETS, ids=entrypoint)

KNOWN = {
    "": {"name", "prefect-version", "pull", "definitions", "deployments"},
    "deployment": {
        "name",
        "description",
        "tags",
        "entrypoint",
        "parameters",
        "schedules",
        "concurrency_limit",
        "work_pool",
        "triggers",
        "version",
    },
    "schedule": {"slug", "interval", "cron", "timezone", "anchor_date", "parameters"},
    "concurrency_limit": {"limit", "collision_strategy", "grace_period_seconds"},
    "work_pool": {"name", "work_queue_name", "job_variables"},
    "job_variables": {"command", "env", "working_dir", "stream_output"},
    "trigger": {"name", "description", "expect", "match", "match_related", "schedule_after", "parameters", "enabled"},
}


def unknown_keys(kind: str, block: dict[str, Any]) -> set[str]:
    return set(block) - KNOWN[kind]


def test_the_file_has_no_key_that_prefect_would_ignore() -> None:
    assert not unknown_keys("", RAW)
    for deployment in DEPLOYMENTS:
        where = deployment["entrypoint"]
        assert not unknown_keys("deployment", deployment), where
        assert not unknown_keys("concurrency_limit", deployment["concurrency_limit"]), where
        assert not unknown_keys("work_pool", deployment["work_pool"]), where
        assert not unknown_keys("job_variables", deployment["work_pool"]["job_variables"]), where
        for schedule in deployment.get("schedules", []):
            assert not unknown_keys("schedule", schedule), where
        for trigger in deployment.get("triggers", []):
            assert not unknown_keys("trigger", trigger), where


def test_prefect_accepts_the_file() -> None:
    assert len(PrefectYamlModel.model_validate(RAW).deployments) == len(DEPLOYMENTS)


def test_every_deployment_has_a_name_of_its_own() -> None:
    names = [(each["entrypoint"], each["name"]) for each in DEPLOYMENTS]
    assert len(set(names)) == len(names)


def test_every_deployment_has_one_kind_and_uses_the_pool() -> None:
    assert len(INLETS) + len(OUTLETS) + len(REPLAYS) + len(UPKEEP) == len(DEPLOYMENTS)
    assert {each["work_pool"]["name"] for each in DEPLOYMENTS} == {POOL}
    assert all("sluice" in each["tags"] for each in DEPLOYMENTS)  # deployments/automations.yaml selects by it


@every
def test_every_entrypoint_is_a_flow_whose_parameters_are_those_given(deployment: dict[str, Any]) -> None:
    flow = load_flow_from_entrypoint(str(ROOT / deployment["entrypoint"]), use_placeholder_flow=False)
    assert isinstance(flow, Flow)
    parameters = {**_defaults(flow), **deployment.get("parameters", {})}
    if "schedules" not in deployment and "upkeep" in deployment["tags"]:  # run by hand: its form asks for the others
        assert set(parameters) <= set(inspect.signature(flow.fn).parameters)
    else:
        flow.validate_parameters(parameters)


@every
def test_surplus_runs_are_cancelled_except_those_of_alerts_which_are_queued(deployment: dict[str, Any]) -> None:
    limit = 3 if "inlet" in deployment["tags"] else 1
    strategy = "ENQUEUE" if deployment["entrypoint"] == "flows/alerts.py:alert" else "CANCEL_NEW"
    assert deployment["concurrency_limit"] == {"limit": limit, "collision_strategy": strategy}


@every_inlet
def test_the_schedule_of_an_inlet_has_a_slug_and_no_active_key(deployment: dict[str, Any]) -> None:
    (schedule,) = deployment["schedules"]
    assert schedule["slug"]
    if "cron" not in schedule:
        assert "anchor_date" not in schedule or dt.datetime.fromisoformat(schedule["anchor_date"]).tzinfo
        assert schedule["interval"] >= 60  # Prefect skips runs of more frequent schedules
    assert "active" not in schedule  # else a deploy would end a pause that was set in the UI


@every_inlet
def test_run_of_an_inlet_pumps_until_the_next_one_starts(deployment: dict[str, Any]) -> None:
    flow = load_flow_from_entrypoint(str(ROOT / deployment["entrypoint"]), use_placeholder_flow=False)
    options = {**_defaults(flow), **deployment.get("parameters", {})}
    if not options["every"]:  # a one-shot inlet
        return
    assert seconds(options["window"]) > deployment["schedules"][0]["interval"]


@pytest.mark.parametrize("deployment", [each for each in UPKEEP if "schedules" in each], ids=entrypoint)
def test_upkeep_is_scheduled_seldom_since_each_run_costs_seconds(deployment: dict[str, Any]) -> None:
    (schedule,) = deployment["schedules"]
    assert schedule["slug"]
    assert schedule["interval"] >= 300
    assert "active" not in schedule


def test_shipped_schedules_start_at_different_times() -> None:
    shipped = [each for each in DEPLOYMENTS if Path(each["entrypoint"].partition(":")[0]).stem in SHIPPED]
    schedules = [each["schedules"][0] for each in shipped if "anchor_date" in each.get("schedules", [{}])[0]]
    hour = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    starts = [
        (dt.datetime.fromisoformat(one["anchor_date"]) - hour).total_seconds() + n * one["interval"]
        for one in schedules
        for n in range(3600 // one["interval"])
    ]
    assert len({start % 3600 for start in starts}) == len(starts)


@every_outlet
def test_an_outlet_runs_again_after_a_crash_or_failure_but_not_after_a_stop(
    deployment: dict[str, Any],
) -> None:
    assert "schedules" not in deployment
    (trigger,) = _initialize_deployment_triggers("main", deployment["triggers"])
    assert trigger.expect == {"prefect.flow-run.Crashed", "prefect.flow-run.Failed"}
    assert trigger.schedule_after == dt.timedelta(seconds=5)
    flow = deployment["entrypoint"].rpartition(":")[2]
    related = {
        specification["prefect.resource.role"]: specification
        for specification in deployment["triggers"][0]["match_related"]
    }
    assert related["flow"]["prefect.resource.name"] == flow
    assert related["deployment"]["prefect.resource.name"] == deployment["name"]


def test_a_replay_ends_by_itself_and_has_a_group_that_no_outlet_has() -> None:
    groups = set()
    for outlet in OUTLETS:
        flow = load_flow_from_entrypoint(str(ROOT / outlet["entrypoint"]), use_placeholder_flow=False)
        groups.add({**_defaults(flow), **outlet.get("parameters", {})}["group"])
    for replay in REPLAYS:
        assert replay["parameters"]["group"] not in groups
        assert replay["parameters"]["until"]
        assert replay["parameters"]["drop_group"]
        assert "triggers" not in replay


def test_every_flow_that_is_shipped_is_deployed() -> None:
    deployed = {each["entrypoint"] for each in DEPLOYMENTS}
    found = set()
    for name in SHIPPED:
        file = ROOT / "flows" / f"{name}.py"
        module = importlib.import_module(f"flows.{name}")
        found |= {
            f"flows/{file.name}:{name}"
            for name, value in vars(module).items()
            if isinstance(value, Flow) and value.name == name and _home(value) == file
        }
    assert len(found) >= len(SHIPPED)
    assert found - deployed == set()


def test_prefect_accepts_the_automations() -> None:
    raw = yaml.safe_load((ROOT / "deployments" / "automations.yaml").read_text())["automations"]
    for each in raw:
        automation = AutomationCore.model_validate(each)
        assert set(each["trigger"]) <= set(type(automation.trigger).model_fields)
        assert set(each["actions"][0]) <= set(type(automation.actions[0]).model_fields)


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


def _defaults(flow: Flow[..., Any]) -> dict[str, Any]:
    return {p.name: p.default for p in inspect.signature(flow.fn).parameters.values() if p.default is not p.empty}


def _home(flow: Flow[..., Any]) -> Path:
    return Path(inspect.getsourcefile(inspect.unwrap(flow.fn)) or "").resolve()


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
