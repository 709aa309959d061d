"""What `sluice up` starts here, and the environment that it shares with all processes of the stack."""

import os
from dataclasses import dataclass
from pathlib import Path

from deployments.servers import login
from deployments.servers.prefect_server import path_of_runs, settings_of_other_server, settings_of_own_server
from tasks.base.state_folder import STATE_DIR
from tasks.settings import REDIS_URL, local_socket, socket_url

__all__ = ["Setting"]


@dataclass(frozen=True, slots=True)
class Setting:
    """Servers and environment of one stack.

    folder      the state folder
    port        the port of the Prefect server, if it is started here
    own_redis   whether Redis is started here, because no address was configured
    own_server  likewise for the Prefect server
    env         the environment; one for all, so that one template can fork them
    """

    root: Path
    folder: Path
    port: int
    own_redis: bool
    own_server: bool
    env: dict[str, str]

    @classmethod
    def of(cls, root: Path, folder: Path, *, port: int) -> "Setting":
        """Return the setting that this process's environment asks for; create the login of an own server."""
        own_redis, own_server = not os.environ.get(REDIS_URL), not os.environ.get("PREFECT_API_URL")
        if own_server:
            env = settings_of_own_server(folder / "prefect", port, secret=login.make_secret(folder))
        else:
            env = settings_of_other_server()
        # prefect.yaml uses PWD as the runs' working directory.
        env |= {STATE_DIR: str(folder), "PWD": str(root), "PATH": path_of_runs(env)}
        if own_redis:
            env[REDIS_URL] = socket_url(local_socket())
        return cls(root, folder, port, own_redis, own_server, env)
