"""Deploy `prefect.yaml` to a server: pool, deployments, automations and schedules."""

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from deployments.processes.forking import python
from deployments.rollout.blueprint import Blueprint, allowance
from deployments.rollout.deployed import deployed, of_blueprint
from deployments.servers.child import last_lines
from deployments.servers.prefect_server import POOL
from tasks.base.shell import sluice_command
from tasks.errors import UnavailableError

__all__ = [
    "Rollout",
    "clear_schedules",
    "ensure_automations",
    "ensure_pool",
    "fingerprint",
    "pause_pool",
    "spread_schedules",
    "strangers",
    "tidy_up",
]

_BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
_GOLDEN = 0.6180339887  # multiples of this part of an interval stay far apart for any number of schedules


def ensure_pool(client: SyncPrefectClient) -> None:
    """Create the work pool if it does not exist."""
    try:
        client.read_work_pool(POOL)
    except ObjectNotFound:
        from prefect.workers.process import ProcessWorker  # noqa: PLC0415 - half a second, the first time only

        template = ProcessWorker.get_default_base_job_template()
        with suppress(ObjectAlreadyExists):  # a worker that starts at the same time creates it too
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))


def pause_pool(client: SyncPrefectClient, *, paused: bool) -> bool:
    """Pause or resume the pool; return whether that changed its state."""
    if client.read_work_pool(POOL).is_paused == paused:
        return False
    client.update_work_pool(POOL, WorkPoolUpdate(is_paused=paused))
    return True


def ensure_automations(client: SyncPrefectClient) -> None:
    """Create missing automations of `deployments/automations.yaml`, and update those that differ from the file.

    An automation that was edited on the server is left unchanged, and a paused one stays paused.
    """
    text = (Path(__file__).parents[1] / "automations.yaml").read_text()
    for raw in yaml.safe_load(text)["automations"]:
        wanted = AutomationCore.model_validate(raw)
        wanted.tags = ["sluice", fingerprint(wanted)]
        found = client.read_automations_by_name(wanted.name)
        if not found:
            client.create_automation(wanted)
        elif wanted.tags != found[0].tags and fingerprint(found[0]) in found[0].tags:
            wanted.enabled = found[0].enabled
            client.update_automation(found[0].id, wanted)


def fingerprint(automation: AutomationCore) -> str:
    """Return a tag with a digest of an automation: one that was edited carries another tag than its digest."""
    does = automation.model_dump(mode="json", include={"trigger", "actions", "description"})
    return f"shipped-{hashlib.sha256(json.dumps(_in_order(does)).encode()).hexdigest()[:12]}"


def _in_order(value: Any) -> Any:
    """Return JSON with keys and lists sorted, because sets in Prefect's models have no fixed order."""
    if isinstance(value, dict):
        return {key: _in_order(value[key]) for key in sorted(value)}
    return sorted(map(_in_order, value), key=json.dumps) if isinstance(value, list) else value


def clear_schedules(client: SyncPrefectClient, blueprint: Blueprint) -> list[str]:
    """Delete schedules that were removed from `prefect.yaml`; return their names.

    `prefect deploy` keeps them if the file declares none (3.9.1). Schedules without a slug were created in the UI, and stay.
    """
    cleared, there = [], deployed(client)
    for declared in blueprint.deployments:
        deployment = there[declared.full_name]
        for schedule in deployment.schedules:
            if schedule.slug and schedule.slug not in declared.slugs:
                client.delete_deployment_schedule(deployment.id, schedule.id)
                cleared.append(f"{declared.full_name}: {schedule.slug}")
    return cleared


def spread_schedules(client: SyncPrefectClient, blueprint: Blueprint) -> None:
    """Spread schedules without an `anchor_date` in `prefect.yaml` over their interval.

    `prefect deploy` anchors them at the time of the deploy, so that all would start runs in the same second. The offset
    depends on the position in the file, which stays the same if others are added at the end.
    """
    position = 0
    for declared, there in of_blueprint(client, blueprint):
        for each in there.schedules:
            if each.slug in declared.unanchored and isinstance(each.schedule, IntervalSchedule):
                seconds = each.schedule.interval.total_seconds()
                anchor = _BEGINNING + timedelta(seconds=round(position * _GOLDEN % 1 * seconds))
                position += 1
                if each.schedule.anchor_date != anchor:
                    moved = each.schedule.model_copy(update={"anchor_date": anchor})
                    client.update_deployment_schedule(there.id, each.id, schedule=moved)


def strangers(client: SyncPrefectClient, blueprint: Blueprint) -> list[str]:
    """Return the names of the pool's deployments that are not in `prefect.yaml`."""
    declared = {each.full_name for each in blueprint.deployments}
    ours = {name for name, each in deployed(client).items() if each.work_pool_name == POOL and "sluice" in each.tags}
    return sorted(ours - declared)


def tidy_up(client: SyncPrefectClient, blueprint: Blueprint) -> Iterator[str]:
    """Spread and clear schedules after a deploy; yield a line for each schedule that was cleared, and each deployment to remove."""
    spread_schedules(client, blueprint)
    for cleared in clear_schedules(client, blueprint):
        yield f"cleared a schedule that prefect.yaml no longer has: {cleared}"
    for stranger in strangers(client, blueprint):
        yield f"{stranger} is deployed but not in prefect.yaml; if it is not needed: `{sluice_command('remove', stranger)}`"


class Rollout:
    """`prefect deploy --all` in a separate process, as a user would run it, except that each file is imported once.

    is_forked   whether the template of runs forks the process
    """

    def __init__(self, blueprint: Blueprint, *, log: Path, env: Mapping[str, str], is_forked: bool = False) -> None:
        self._log = log
        self._allowance = allowance(blueprint)
        folder = blueprint.path.parent
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - ourselves
                [
                    *python(is_forked),
                    "deployments.rollout.flow_files",
                    "--all",
                    "--prefect-file",
                    blueprint.path.name,
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**env, "PWD": str(folder)},  # prefect.yaml uses it as the runs' working directory
                cwd=folder,
            )

    def result(self, *, timeout: float | None = None) -> None:
        """Wait until the process ends, by default for its `allowance`; raises UnavailableError with its output if it failed."""
        patience = self._allowance if timeout is None else timeout
        try:
            code = self._process.wait(patience)
            what = f"failed (exit code {code})"
        except subprocess.TimeoutExpired:
            code, what = None, f"was not done within {patience:g} s"
        finally:
            self.close()
        if code != os.EX_OK:
            msg = f"`prefect deploy --all` {what}; the last lines of {self._log}:\n{last_lines(self._log, 8)}"
            raise UnavailableError(msg)

    def close(self) -> None:
        """Kill the process if it still runs."""
        self._process.kill()
        self._process.wait()
