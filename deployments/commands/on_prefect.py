"""Helpers of commands on deployments: the client of the server in use, and deployments by name."""

from typing import TYPE_CHECKING

from deployments.servers.ledger import Ledger
from deployments.servers.old_names import new_name
from deployments.servers.prefect_server import find_server
from tasks.base.state_folder import state_dir
from tasks.errors import SettingsError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse

__all__ = ["find_deployment", "no_such_deployment", "prefect_client"]


def prefect_client() -> "SyncPrefectClient":
    """Return a client of the Prefect server in use, to be entered.

    raises    UnavailableError: no server answers
    """
    find_server(Ledger(state_dir()))
    from prefect.client.orchestration import get_client  # noqa: PLC0415 - only now, see find_server

    return get_client(sync_client=True)


def find_deployment(client: "SyncPrefectClient", name: str) -> tuple[str, "DeploymentResponse"]:
    """Return the full name of a deployment, and the deployment.

    name      a deployment's full name; its old one, such as 'movers/main', which it had before it was called as its flow; or a
              flow, which stands for the deployment that is called as it, or 'main', or for its only one; or the second part of a
              full name, such as 'movers-replay', if no other has it
    raises    SettingsError: no such deployment, with those that exist
    """
    from deployments.rollout.deployed import deployed  # noqa: PLC0415 - only now, see find_server

    there = deployed(client)
    flow, _, of_flow = name.partition("/")
    if of_flow:
        names = [name, f"{flow}/{new_name(flow, of_flow)}"]
    else:
        of_it = [full for full in there if full.partition("/")[0] == flow]
        called = [full for full in there if full.partition("/")[2] == name]
        names = [f"{flow}/{flow}", f"{flow}/main", *(of_it if len(of_it) == 1 else ())]
        names += called if len(called) == 1 else []
    if full := next((full for full in names if full in there), None):
        return full, there[full]
    raise no_such_deployment(client, name)


def no_such_deployment(client: "SyncPrefectClient", name: str) -> SettingsError:
    """Return the error for a name that no deployment has."""
    from deployments.rollout.deployed import deployed  # noqa: PLC0415 - only now, see find_server

    known = ", ".join(deployed(client)) or "none"
    return SettingsError(
        f"expected the name of a deployment, got {name!r}; the server has: {known}; `prefect deploy --all` adds those of prefect.yaml"
    )
