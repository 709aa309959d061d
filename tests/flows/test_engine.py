"""A run as its deployment's command starts it, on a real Prefect server."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, flows
from prefect.client.schemas.filters import LogFilter

from deployments.rollout import apply as rollout
from deployments.servers.prefect_server import POOL
from flows.runtime.postponed import postpone_schemas
from tests.support.plain import ROOT, Plain
from tests.support.waiting import wait_until

SPY = """
import gc
import time
from pathlib import Path

from prefect import flow
from prefect.events import emit_event
from websockets.asyncio.client import ClientConnection

@flow
def spy():
    emit_event("sluice.spied", resource={"prefect.resource.id": "sluice.spy"})
    time.sleep(1)  # for what Prefect opens in the background
    Path("websockets").write_text(str(sum(isinstance(each, ClientConnection) for each in gc.get_objects())))
"""


def test_a_state_folder_that_cannot_be_used_keeps_no_run_from_beginning(tmp_path: Path) -> None:
    (tmp_path / "a-file").touch()
    environ = os.environ | {"SLUICE_STATE_DIR": str(tmp_path / "a-file"), "PREFECT__FLOW_RUN_ID": "of no run"}
    command = [sys.executable, "-m", "flows.runtime.engine"]
    ended = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert "NotADirectoryError" not in ended.stderr
    assert "Invalid flow run id" in ended.stderr  # it comes as far as Prefect's engine


def test_schemas_are_computed_when_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    for name in ("parameter_schema", "ValidatedFunction"):
        monkeypatch.setattr(flows, name, _counting(made, name, getattr(flows, name)))
    postpone_schemas()

    @flow
    def adds(a: int, b: int = 2) -> int:
        return a + b

    assert made == []
    assert adds.validate_parameters({"a": "1"}) == {"a": 1, "b": 2}
    assert made == ["ValidatedFunction"]
    assert adds.parameters.required == ["a"]
    assert set(adds.parameters.properties) == {"a", "b"}
    assert made == ["ValidatedFunction", "parameter_schema"]


def _counting(made: list[str], name: str, make: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*arguments: Any, **options: Any) -> Any:
        made.append(name)
        return make(*arguments, **options)

    return counted


@pytest.mark.slow
def test_a_run_opens_no_websocket_and_logs_no_steps(plain: Plain, tmp_path: Path) -> None:
    rollout.ensure_pool(plain.client)
    (tmp_path / "spy.py").write_text(SPY)
    of = plain.client.create_deployment(
        plain.client.create_flow_from_name("spy"),
        "main",
        entrypoint="spy.py:spy",
        work_pool_name=POOL,
        job_variables={"command": "python -m flows.runtime.engine"},
        pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(tmp_path)}}],
    )
    run = plain.client.create_flow_run_from_deployment(of)
    wait_until(lambda: plain.state(run.id) == "Completed", "its end")
    assert (tmp_path / "websockets").read_text() == "0"

    def logged() -> list[str]:
        of_run = LogFilter.model_validate({"flow_run_id": {"any_": [run.id]}})
        return [line.message for line in plain.client.read_logs(of_run)]

    wait_until(lambda: any(line.startswith("Finished in state") for line in logged()), "its last line")
    assert not [line for line in logged() if "step" in line]
    plain.client.delete_flow(plain.client.read_deployment(of).flow_id)
