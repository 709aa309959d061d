"""Events of alarms in Prefect, as automations need them."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from prefect.events import emit_event

from flows.runtime.prefect_api import impatient_client
from tasks.reservoir.alarms import Alarm

__all__ = ["emit_alarm", "emit_alarms"]


def emit_alarms(alarms: Sequence[Alarm]) -> None:
    """Emit the event of each alarm. Its resource is the topic, and the group or inlet is related to it."""
    alert = _deployment_of_alert() if alarms else []
    for alarm in alarms:
        about = f"{alarm.topic}.{alarm.name}"
        related = {
            "prefect.resource.id": f"sluice.{alarm.kind}.{about}",
            "prefect.resource.name": alarm.name,
            "prefect.resource.role": alarm.kind,
        }
        payload = {
            "topic": alarm.topic,
            alarm.kind: alarm.name,
            "entries": alarm.entries,
            "message": alarm.message,
            "remedy": alarm.remedy,
        }
        resource = f"sluice.topic.{alarm.topic}"
        _emit(alarm.event, resource, alarm.topic, about=about, related=[related, *alert], payload=payload)


def emit_alarm(
    event: str, kind: str, name: str, *, related: Sequence[dict[str, str]], payload: Mapping[str, Any]
) -> None:
    """Emit the event of an alarm that concerns no topic.

    kind, name   of the resource, such as an outlet
    payload      with a `message`
    """
    _emit(
        event, f"sluice.{kind}.{name}", name, about=name, related=[*related, *_deployment_of_alert()], payload=payload
    )


def _emit(
    event: str, resource: str, name: str, *, about: str, related: Sequence[dict[str, str]], payload: Mapping[str, Any]
) -> None:
    """Emit an event with the alarm as a related resource, so that an automation can limit how often it acts on each."""
    emit_event(
        event,
        resource={"prefect.resource.id": resource, "prefect.resource.name": name},
        related=[*related, {"prefect.resource.id": f"{event}.{about}", "prefect.resource.role": "alarm"}],
        payload=dict(payload),
    )


def _deployment_of_alert() -> list[dict[str, str]]:
    """Return the deployment of the flow `alert` as a related resource; none if it does not exist.

    An automation can run the deployment that it infers from the event; it could otherwise name one only by id (Prefect 3.9.1).
    """
    for name in ("alert/alert", "alert/main"):  # the latter in a prefect.yaml of an older version
        with suppress(Exception), impatient_client() as client:
            found = client.read_deployment_by_name(name)
            return [{"prefect.resource.id": f"prefect.deployment.{found.id}", "prefect.resource.role": "alert"}]
    return []
