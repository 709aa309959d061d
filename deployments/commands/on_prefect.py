"""Helpers of commands on deployments: the client of the server in use, and deployments by name."""

from typing import TYPE_CHECKING

from deployments.servers.ledger import Ledger
from deployments.servers.prefect_server import find_server
from tasks.base.state_folder import state_dir
from tasks.errors import SettingsError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse

__all__ = ["find_deployment", "full_name", "no_such_deployment", "prefect_client"]


def prefect_client() -> "SyncPrefectClient":
    """Return a client of the Prefect server in use, to be entered.

    raises    UnavailableError: no server answers
    """
    find_server(Ledger(state_dir()))
    from prefect.client.orchestration import get_client  # noqa: PLC0415 - only now, see find_server

    return get_client(sync_client=True)


def full_name(name: str) -> str:
    """Return a deployment's full name; that of a flow stands for its deployment `main`."""
    return name if "/" in name else f"{name}/main"


def find_deployment(client: "SyncPrefectClient", full: str) -> "DeploymentResponse":
    """Return the deployment of a full name.

    raises    SettingsError: no such deployment, with those that exist
    """
    from prefect.exceptions import ObjectNotFound  # noqa: PLC0415 - only now, see find_server

    try:
        return client.read_deployment_by_name(full)
    except ObjectNotFound as error:
        raise no_such_deployment(client, full) from error


def no_such_deployment(client: "SyncPrefectClient", name: str) -> SettingsError:
    """Return the error for a name that no deployment has."""
    from deployments.rollout.deployed import deployed  # noqa: PLC0415 - only now, see find_server

    known = ", ".join(deployed(client)) or "none"
    return SettingsError(
        f"expected the name of a deployment, got {name!r}; the server has: {known}; `prefect deploy --all` adds those of prefect.yaml"
    )
