"""Emits Prefect events for problems in the reservoir, and logs alerts from a flow that automations run."""

from collections.abc import Iterable, Iterator
from contextlib import suppress

from prefect import flow, get_run_logger
from prefect.events import emit_event

from flows.runtime.prefect_api import impatient_client
from tasks.reservoir.history import Sample
from tasks.reservoir.levels import TopicLevel

__all__ = ["alert", "emit_events"]


@flow(flow_run_name="{message}", persist_result=False)
def alert(message: str) -> None:
    """Log a message as a warning, and use it as the name of the run.

    Automations run this flow as long as no messenger is configured. deployments/automations.yaml has one.

    Args:
        message: Text of the alert.
    """
    get_run_logger().warning("%s", message)


def emit_events(levels: Iterable[TopicLevel], before: Sample | None, *, max_lag: int) -> None:
    """Emit an event for each group that lags by more than `max_lag`, has new dead letters or lost entries since `before`.

    The resource is the topic. Related resources are the group, and the deployment of `alert`, so that an automation can run the
    deployment that it infers from the event: its action could otherwise name one only by id (Prefect 3.9.1).
    """
    found = list(_wrong(levels, before, max_lag))
    related_alert = _deployment_of_alert() if found else []
    for event, topic, group, entries, what in found:
        emit_event(
            event,
            resource={"prefect.resource.id": f"sluice.topic.{topic}", "prefect.resource.name": topic},
            related=[
                {
                    "prefect.resource.id": f"sluice.group.{topic}.{group}",
                    "prefect.resource.name": group,
                    "prefect.resource.role": "group",
                },
                *related_alert,
            ],
            payload={
                "topic": topic,
                "group": group,
                "entries": entries,
                "message": f"group {group!r} on topic {topic!r}: {entries:,} entries {what}",
            },
        )


def _wrong(
    levels: Iterable[TopicLevel], before: Sample | None, max_lag: int
) -> Iterator[tuple[str, str, str, int, str]]:
    for level in levels:
        for group in level.groups:
            who = (level.topic, group.name)
            dead = group.dead + group.dead_dropped - (before.dead.get(who, 0) if before else 0)
            spilled = group.spilled - (before.spilled.get(who, 0) if before else 0)
            if group.lag is not None and group.lag > max_lag:
                yield "sluice.topic.lagging", *who, group.lag, "behind"
            if dead > 0:
                yield "sluice.entry.dead", *who, dead, "became dead letters"
            if spilled > 0:
                yield "sluice.reservoir.spilled", *who, spilled, "dropped before it had read them"


def _deployment_of_alert() -> list[dict[str, str]]:
    """Return the deployment of `alert` as a related resource; none if it does not exist."""
    with suppress(Exception), impatient_client() as client:
        found = client.read_deployment_by_name("alert/main")
        return [{"prefect.resource.id": f"prefect.deployment.{found.id}", "prefect.resource.role": "alert"}]
    return []
