"""Starts the runs that replace an inlet's run, when its deployment or its schedules have changed."""

import logging
from typing import Any

from prefect.client.schemas.objects import FlowRun

from flows.runtime.custom_parameters import differing
from flows.runtime.poll_turn import run_key
from flows.runtime.prefect_api import impatient_client
from flows.runtime.shared_poll import Seen
from tasks.base.imported_files import imported_files

__all__ = ["Successors"]


class Successors:
    """Starts the runs that replace one run. Constructed by the run's thread; the watch's calls the methods."""

    def __init__(self, name: str, run: FlowRun, log: logging.Logger | logging.LoggerAdapter[Any]) -> None:
        self._name = name
        self._run = run
        self._log = log
        self._files = imported_files()

    def relieve(self, before: Seen, now: Seen, base: dict[str, Any]) -> None:
        """Start the run that relieves this one, if the deployment or its files have changed. This one continues until then.

        base    the deployment's parameters when this run began
        """
        files = imported_files()
        if now.content == before.content and all(files.get(name) == seen for name, seen in self._files.items()):
            return
        self._files = files
        self._log.info("%s: its deployment has changed; a new run relieves this one", self._name)
        self._start(differing(self._run.parameters, base), key=f"relieves {self._run.id} {now.updated}")

    def follow(self, before: Seen, now: Seen) -> None:
        """Start runs with the parameters that are new in the schedules."""
        for parameters in now.scheduled:
            if parameters not in before.scheduled:
                self._start(parameters, key=run_key(f"follows {self._run.deployment_id} {now.updated}", parameters))

    def _start(self, parameters: dict[str, Any], *, key: str) -> None:
        assert self._run.deployment_id is not None
        try:
            with impatient_client() as prefect:
                prefect.create_flow_run_from_deployment(
                    self._run.deployment_id, parameters=parameters, idempotency_key=key
                )
        except Exception as error:  # noqa: BLE001 - the schedule starts one as well
            self._log.warning("%s: no new run could be started (%s)", self._name, type(error).__name__)
