"""Logs the messages of alarms in a flow that automations run."""

from prefect import flow, get_run_logger

__all__ = ["alert"]


@flow(flow_run_name="{message}", persist_result=False)
def alert(message: str) -> None:
    """Log a message as a warning, and use it as the name of the run.

    Automations run this flow as long as no messenger is configured. deployments/automations.yaml has one.

    Args:
        message: Text of the alert.
    """
    get_run_logger().warning("%s", message)
