"""`sluice deploy`: bring `prefect.yaml` and the automations to the Prefect server in use, as `sluice up` does at its start."""

import os
from pathlib import Path

from rich.console import Console

from deployments.commands.on_prefect import prefect_client
from deployments.rollout.blueprint import EntrypointCheck, read_blueprint
from deployments.show.terminal import print_aside
from tasks.base.project_folder import PREFECT_YAML
from tasks.base.state_folder import state_dir
from tasks.errors import SettingsError

__all__ = ["deploy"]


def deploy(console: Console, *, root: Path, timeout: float) -> None:
    """Deploy the project's flows; create missing automations and the work pool; move deployments that have old names.

    root      the project
    timeout   seconds to wait at most for the runs of a deployment with an old name to end
    raises    SettingsError: `prefect.yaml` is wrong, or a flow cannot be imported: nothing was deployed; UnavailableError: no server
              answers, or `prefect deploy` failed
    """
    with prefect_client() as client:
        from deployments.rollout import apply, moving  # noqa: PLC0415 - only now, see find_server

        env = {**os.environ, "PWD": str(root)}
        try:
            blueprint = EntrypointCheck(read_blueprint(root / PREFECT_YAML), env=env).result()
        except SettingsError as error:
            msg = f"nothing was deployed: {error}"
            raise SettingsError(msg) from error
        apply.ensure_pool(client)
        apply.ensure_automations(client)
        logs = state_dir() / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        rollout = apply.Rollout(blueprint, log=logs / "deploy.log", env=env)
        rollout.result()
        for line in apply.tidy_up(client, blueprint):
            print_aside(line)
        moving.move_old_names(client, blueprint, timeout=timeout, say=print_aside)
    console.print(f"{len(blueprint.deployments)} deployments of {PREFECT_YAML} are on the server", highlight=False)
