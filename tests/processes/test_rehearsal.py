"""Work done once in the template instead of in each run: TLS contexts and the validators of Prefect's models."""

import json
import subprocess
import sys
from typing import Any

import pytest

PROGRAM = """
import json, ssl
import deployments.processes.template as template
import importlib
for module in template._PRELOADED:
    importlib.import_module(module)
from deployments.processes.rehearsal import rehearse

rehearse()
made, make = [], ssl.SSLContext.load_verify_locations
ssl.SSLContext.load_verify_locations = lambda *args, **kwargs: (made.append(1), make(*args, **kwargs))
from prefect.client.orchestration import PrefectClient, SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse

url = "http://127.0.0.1:1/api"
clients = [SyncPrefectClient(url), PrefectClient(url), SyncPrefectClient(url)]
built = [type(model.__pydantic_validator__).__name__ for model in (FlowRun, DeploymentResponse)]
print(json.dumps({"loaded": len(made), "validators": built}))
"""


def rehearsed() -> dict[str, Any]:
    """Return what clients and models of Prefect do after a rehearsal, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=240, check=True)
    return json.loads(done.stdout)


@pytest.mark.slow
def test_rehearsal_leaves_runs_no_certificates_to_load_and_no_models_to_build() -> None:
    found = rehearsed()
    assert found == {"loaded": 0, "validators": ["SchemaValidator"] * 2}
