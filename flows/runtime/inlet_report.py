"""Publishes the report of an inlet's run, on a grid or one-shot, as an artifact in Prefect, and logs its alarms."""

import logging
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Self
from uuid import UUID

import redis

from flows.runtime.alarm_lines import AlarmLines
from flows.runtime.prefect_api import artifact_key, publish
from tasks.base.plain_text import in_markdown
from tasks.base.quantities import counted
from tasks.pump.alarms import alarms_of_inlets
from tasks.pump.counts import counts_of, redis_ms
from tasks.pump.run import PumpRun
from tasks.pump.ticks import Beat
from tasks.report.alarms import alarms_shown
from tasks.report.pipeline import as_of, table

__all__ = ["InletReport", "OneShotReport"]

_EVERY = 290.0  # seconds between two reports; the first one comes after a minute


class InletReport:
    """The artifact of a run: its alarms, and the counts of its ticks so far. The watch's thread uses it, and the run at its end."""

    def __init__(
        self, pumping: PumpRun, beat: Beat, *, name: str, log: logging.Logger | logging.LoggerAdapter[Any]
    ) -> None:
        self._pumping = pumping
        self._beat = beat
        self._name = name
        self._alarms = AlarmLines(log)
        self._artifact: UUID | None = None
        self._next = 0.0

    def every_minute(self) -> None:
        """Log alarms that come and go, and publish the report if it is due or they have changed."""
        before = len(self._alarms.current)
        client = self._beat.reservoir.client
        self._alarms.update(alarms_of_inlets(counts_of(client, [self._beat.key]), redis_ms(client)))
        if time.monotonic() >= self._next or len(self._alarms.current) != before:
            self.publish()

    def publish(self) -> None:
        """Create the artifact, or change it."""
        self._next = time.monotonic() + _EVERY
        name, topic = in_markdown(self._name), in_markdown(self._beat.topic)
        parts = [f"# {name}", f"Pushes into {topic}. {as_of(datetime.now(UTC))}"]
        if self._alarms.current:
            parts.append(alarms_shown(self._alarms.current))
        self._artifact = publish(
            "\n\n".join([*parts, self._pumping.summary.markdown()]),
            key=artifact_key("inlet", self._name, self._beat.topic),
            description=f"Ticks of {name} -> {topic}",
            replaces=self._artifact,
        )


class OneShotReport:
    """The log line and the artifact of a one-shot run; a context manager around the run, which gives it the pushed ids."""

    def __init__(self, beat: Beat, *, name: str, log: logging.Logger | logging.LoggerAdapter[Any]) -> None:
        self._beat = beat
        self._name = name
        self._log = log
        self._alarms = AlarmLines(log)
        self._began = time.monotonic()
        self.pushed: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        seconds = time.monotonic() - self._began
        if error is None:
            pushed = counted(len(self.pushed), "entry", "entries")
            self._log.info("%s -> %s: %s pushed in %.1f s", self._name, self._beat.topic, pushed, seconds)
        with suppress(redis.RedisError):  # the run's state contains it as well
            client = self._beat.reservoir.client
            self._alarms.update(alarms_of_inlets(counts_of(client, [self._beat.key]), redis_ms(client)))
        self._publish(seconds, error)

    def _publish(self, seconds: float, error: BaseException | None) -> None:
        name, topic = in_markdown(self._name), in_markdown(self._beat.topic)
        parts = [f"# {name}", f"Pushes into {topic}, once each run. {as_of(datetime.now(UTC))}"]
        if error is not None:
            parts.append(f"**Failed** with {type(error).__name__}; nothing was pushed. The run's log has the error.")
        if self._alarms.current:
            parts.append(alarms_shown(self._alarms.current))
        rows = [("entries pushed", len(self.pushed)), ("pump and push", f"{seconds:.1f} s")]
        if self.pushed:
            rows.append(("ids", f"{self.pushed[0]} to {self.pushed[-1]}" if len(self.pushed) > 1 else self.pushed[0]))
        publish(
            "\n\n".join([*parts, table(("", ""), rows)]),
            key=artifact_key("inlet", self._name, self._beat.topic),
            description=f"Entries of {self._name} -> {self._beat.topic}",
        )
