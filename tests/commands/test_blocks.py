"""`sluice doctor` warns of blocks in `prefect.yaml` that Prefect takes, and that do not do what they should."""

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from prefect.cli.deploy._models import (
    ConcurrencyLimitSpec,
    DeploymentConfig,
    PrefectYamlModel,
    RawScheduleConfig,
    WorkPoolConfig,
)
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import SCHEDULE_TYPES
from prefect.events.schemas.deployment_triggers import (
    DeploymentCompoundTrigger,
    DeploymentEventTrigger,
    DeploymentMetricTrigger,
    DeploymentSequenceTrigger,
)
from pydantic import BaseModel

from deployments.checks.blocks import KEYS, BlocksCheck, problems_of
from tests.support.plain import ROOT

FLOWS = """
from flows import inlet, outlet

@inlet(topic="blocks", every="1s", window="5min")
def pump(top: int = 3): ...

@inlet(topic="blocks-daily", every=None)
def daily(): ...

@outlet(topics="blocks", group="reader")
def reader(source): return source
"""


def block(function: str, **changed: Any) -> dict[str, Any]:
    kind = "outlet" if function == "reader" else "inlet"
    sound: dict[str, Any] = {"name": "main", "tags": ["sluice", kind], "entrypoint": f"blocks_flows.py:{function}"}
    if kind == "inlet":
        sound["schedules"] = [{"slug": "often", "interval": 60}]
    return {**sound, **changed}


def trigger(flow: str, deployment: str = "main") -> dict[str, Any]:
    related = [
        {"prefect.resource.role": "deployment", "prefect.resource.name": deployment},
        {"prefect.resource.role": "flow", "prefect.resource.name": flow},
    ]
    return {"expect": ["prefect.flow-run.Crashed"], "match_related": related}


SOUND = [
    block("pump"),
    block("pump", parameters={"top": 5}),
    block("daily", schedules=[{"slug": "daily", "cron": "0 0 * * *"}]),
    block("reader", triggers=[trigger("reader") | {"expect": ["weather.changed"]}]),
    block("reader"),
]
WRONG = [
    (block("pump", schedules=[]), "an inlet without a schedule"),
    (block("pump", schedules=[{"slug": "often", "interval": 30}]), "at an interval of 30 s"),
    (block("pump", schedules=[{"slug": "often", "interval": 300}]), "a run ends after 5min, before the next one"),
    (block("pump", schedules=[{"interval": 60}]), "a schedule without a slug"),
    (block("pump", schedules=[{"slug": "often", "interval": 60, "active": True}]), "undoes a pause"),
    (block("pump", schedules=[{"slug": "s", "interval": 60, "parameters": {"tpo": 1}}]), "no parameter tpo"),
    (block("pump", paramters={"top": 1}), "ignores paramters"),
    (block("pump", parameters={"tpo": 1}), "the flow has no parameter tpo"),
    (block("pump", parameters={"top": "many"}), "its runs would be refused"),
    (block("pump", work_pool={"nmae": "sluice"}), "nmae, because there is no such key of a work_pool"),
    (block("reader", triggers=[trigger("reader")]), "as an automation does for all outlets"),
    (block("reader", triggers=[trigger("other")]), "follows runs of another deployment (flow other)"),
    (block("reader", triggers=[trigger("reader", "replay")]), "(deployment replay)"),
]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "blocks_flows.py").write_text(FLOWS)
    monkeypatch.chdir(tmp_path)


def test_sound_blocks_have_no_problem() -> None:
    assert list(problems_of({"deployments": SOUND})) == []


@pytest.mark.parametrize(("wrong", "said"), WRONG, ids=[said for _, said in WRONG])
def test_each_problem_of_a_block_is_named_with_a_cure(wrong: dict[str, Any], said: str) -> None:
    [(problem, cure)] = list(problems_of({"deployments": [*SOUND, wrong]}))
    assert problem.startswith(f"{wrong['entrypoint'].rpartition(':')[2]}/main: ")
    assert said in problem
    assert cure


def test_the_check_imports_flows_in_a_process_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "prefect.yaml").write_text(yaml.safe_dump({"deployments": [block("pump", parameters={"tpo": 1})]}))
    [finding] = BlocksCheck(tmp_path).result()
    assert (finding.check, finding.level) == ("blocks", "warn")
    assert "no parameter tpo" in finding.says


def test_the_shipped_file_has_only_keys_that_prefect_reads() -> None:
    raw = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    assert set(raw) <= KEYS[""]
    assert all(set(each) <= KEYS["deployment"] for each in raw["deployments"])


def test_the_known_keys_are_those_of_prefects_models() -> None:
    def keys(*models: type[BaseModel]) -> set[str]:
        return {field.alias or name for model in models for name, field in model.model_fields.items()}

    schedules = (RawScheduleConfig, *get_args(SCHEDULE_TYPES), DeploymentScheduleCreate)
    triggers = (DeploymentEventTrigger, DeploymentMetricTrigger, DeploymentCompoundTrigger, DeploymentSequenceTrigger)
    assert KEYS[""] == keys(PrefectYamlModel) | {"definitions"}
    assert KEYS["deployment"] == keys(DeploymentConfig) - {"paused"}
    assert KEYS["concurrency_limit"] == keys(ConcurrencyLimitSpec)
    assert KEYS["work_pool"] == keys(WorkPoolConfig)
    assert KEYS["schedule"] <= keys(*schedules)
    assert KEYS["trigger"] == keys(*triggers)
