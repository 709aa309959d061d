"""Check the Prefect server: its worker, automations, deployments and schedules. Read-only."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from httpx import HTTPError

from deployments.checks.findings import Finding, failure, fine, warning
from deployments.checks.secret_block import check_secret
from deployments.rollout.blueprint import Blueprint, Deployment, read_blueprint
from deployments.servers.ledger import Ledger
from deployments.servers.prefect_server import POOL, find_server, said_by
from tasks.base.project_folder import up_command
from tasks.base.state_folder import state_dir
from tasks.errors import SettingsError, UnavailableError
from tasks.settings import without_password

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse

__all__ = ["check_prefect"]


def _deploy() -> str:
    """Return how to bring the deployments of `prefect.yaml` to the server: `make up` is refused while it runs."""
    deploy = "`sluice deploy`"
    return deploy if Ledger(state_dir()).holder() else f"{deploy}, or `{up_command()}`"


def check_prefect(root: Path) -> Iterator[Finding]:
    """Check the server's version, pool, worker, automations, deployments and schedules, and the Secret block with Redis' address."""
    try:
        url = find_server(Ledger(state_dir()))
    except UnavailableError as error:
        yield failure("Prefect", error)
        return
    from flows.runtime.prefect_api import impatient_client  # noqa: PLC0415 - Prefect reads its settings now, see find_server

    try:
        with impatient_client() as client:
            yield _version(client.api_version(), url)
            yield from _worker(client)
            yield from _automations(client)
            yield check_secret(client)
            yield from _deployments(client, root)
    except HTTPError as error:
        yield failure("Prefect", said_by(error))


def _version(server: str, url: str) -> Finding:
    from prefect import __version__  # noqa: PLC0415 - see check_prefect

    summary = f"{server} at {without_password(url).removesuffix('/api')}"
    if server == __version__:
        return fine("Prefect", summary)
    return warning(
        "Prefect", f"{summary}, but {__version__} here", f"use a server of {__version__}: others were not tried"
    )


def _worker(client: "SyncPrefectClient") -> Iterator[Finding]:
    from prefect.exceptions import ObjectNotFound  # noqa: PLC0415 - see check_prefect

    from deployments.rollout.runs import workers_online  # noqa: PLC0415

    start = f"`prefect worker start --pool {POOL} --type process` in the activated environment"
    if Ledger(state_dir()).holder():
        start = f"`sluice up` starts one again within seconds; if it does not, see {state_dir() / 'logs'}"
    else:
        start = f"`{up_command()}`, or {start}"
    try:
        pool = client.read_work_pool(POOL)
    except ObjectNotFound:
        yield failure(
            "work pool",
            f"there is no pool {POOL!r}",
            f"`{up_command()}`, or `prefect work-pool create {POOL} --type process`",
        )
        return
    if pool.is_paused:
        yield failure("work pool", f"{POOL!r} is paused: no run begins", f"`prefect work-pool resume {POOL}`")
    else:
        yield fine("work pool", f"{POOL!r}, of type {pool.type}")
    online = workers_online(client)
    yield fine("worker", ", ".join(online)) if online else failure("worker", "none is online: no run begins", start)


def _automations(client: "SyncPrefectClient") -> Iterator[Finding]:
    file = Path(__file__).parents[1] / "automations.yaml"
    declared = [each["name"] for each in yaml.safe_load(file.read_text())["automations"]]
    there = {each.name: each for each in client.read_automations()}
    absent = [name for name in declared if name not in there]
    disabled = [name for name in declared if name in there and not there[name].enabled]
    if absent:
        yield warning("automations", f"not there: {'; '.join(absent)}", "`sluice deploy`; until then, nothing does what they do: run crashed inlets and outlets again, report alarms")  # fmt: skip
    if disabled:
        yield warning("automations", f"switched off: {'; '.join(disabled)}", "switch it on in the Prefect UI")
    if not absent and not disabled:
        yield fine("automations", f"{len(declared)} of {len(declared)} on")


def _deployments(client: "SyncPrefectClient", root: Path) -> Iterator[Finding]:
    try:
        blueprint = read_blueprint(root / "prefect.yaml")
    except SettingsError as error:
        yield failure("deployments", error)
        return
    from deployments.rollout.deployed import deployed, schedule_of  # noqa: PLC0415 - see check_prefect

    named = deployed(client)
    # Compared by entrypoint, because the flow's name is known only after an import.
    there = {(each.entrypoint or "", each.name): each for each in named.values()}
    applied = [(each, there[key]) for each in blueprint.deployments if (key := (each.entrypoint, each.name)) in there]
    absent = [_label(each) for each in blueprint.deployments if (each.entrypoint, each.name) not in there]
    other = [_label(declared) for declared, found in applied if _differs(declared, found)]
    deploy = _deploy()
    if absent:
        yield failure("deployments", f"in prefect.yaml, but not on the server: {', '.join(absent)}", deploy)
    if other:
        yield warning("deployments", f"tags or schedules are not those of prefect.yaml: {', '.join(other)}", deploy)
    if strange := _strangers(blueprint, named):
        yield warning("deployments", f"on the server, but not in prefect.yaml: {', '.join(strange)}", "`sluice deploy` moves those with an old name, such as movers/main; `sluice remove NAME` deletes one that is not needed")  # fmt: skip
    if not (absent or other or strange):
        yield fine("deployments", f"{len(applied)} of {len(applied)} in prefect.yaml are on the server")
    scheduled = [(declared, found) for declared, found in applied if declared.slugs]
    if paused := [_label(declared) for declared, found in scheduled if schedule_of(found) == "paused"]:
        yield warning("schedules", f"paused: {', '.join(paused)}", "resume them in the Prefect UI, on the page of the deployment")  # fmt: skip
    else:
        yield fine("schedules", f"{len(scheduled)} of {len(scheduled)} on")


def _differs(declared: Deployment, found: "DeploymentResponse") -> bool:
    slugs = {each.slug for each in found.schedules if each.slug}
    return set(found.tags) != declared.tags or slugs != declared.slugs


def _strangers(blueprint: Blueprint, named: Mapping[str, "DeploymentResponse"]) -> list[str]:
    declared = {(each.entrypoint, each.name) for each in blueprint.deployments}
    ours = {name: each for name, each in named.items() if each.work_pool_name == POOL and "sluice" in each.tags}
    return [name for name, each in ours.items() if (each.entrypoint, each.name) not in declared]


def _label(declared: Deployment) -> str:
    return f"{declared.function}/{declared.name}"
