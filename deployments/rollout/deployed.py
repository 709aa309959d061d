"""Complete listings of a Prefect server's objects, which it returns page by page."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowFilter
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import DeploymentSort

from deployments.rollout.blueprint import Blueprint, Deployment

__all__ = ["deployed", "of_blueprint", "paged", "replicas_of", "result_topics", "schedule_of"]

_PAGE = 200  # the server returns no more at once (3.9.1)

T = TypeVar("T")


def paged(read: Callable[..., list[T]], **asked: Any) -> list[T]:
    """Return all results of a client's method, not only the first page."""
    found: list[T] = []
    while True:
        page = read(**asked, limit=_PAGE, offset=len(found))
        found += page
        if len(page) < _PAGE:
            return found


def deployed(client: SyncPrefectClient) -> dict[str, DeploymentResponse]:
    """Return the server's deployments by full name, such as 'quotes/quotes', sorted."""
    found = paged(client.read_deployments, sort=DeploymentSort.CREATED_DESC)
    of_them = FlowFilter.model_validate({"id": {"any_": sorted({each.flow_id for each in found})}})
    flows = {flow.id: flow.name for flow in paged(client.read_flows, flow_filter=of_them)}
    named = {f"{flows[each.flow_id]}/{each.name}": each for each in found if each.flow_id in flows}
    return dict(sorted(named.items()))


def of_blueprint(client: SyncPrefectClient, blueprint: Blueprint) -> list[tuple[Deployment, DeploymentResponse]]:
    """Return the deployments of a blueprint that exist on the server, each as declared and as deployed."""
    there = deployed(client)
    return [(each, there[each.full_name]) for each in blueprint.deployments if each.full_name in there]


def result_topics(outlets: Iterable[DeploymentResponse]) -> list[str]:
    """Return the topics that outlets push their results to, each once: the parameter `into`, or the flow's default for it."""
    topics: list[str] = []
    for each in outlets:
        known = each.parameter_openapi_schema or {}
        default = known.get("properties", {}).get("into", {}).get("default")
        topic = (each.parameters or {}).get("into", default)
        if isinstance(topic, str) and topic not in topics:
            topics.append(topic)
    return topics


def replicas_of(deployment: DeploymentResponse) -> int:
    """Return how many runs of an outlet's deployment are to be there: as many as its concurrency limit admits, by default one."""
    limit = deployment.global_concurrency_limit
    return limit.limit if limit else 1


def schedule_of(deployment: DeploymentResponse) -> str:
    """Return 'on' if a schedule starts runs, 'paused' if none is active, or '-' if there is none."""
    if not deployment.schedules:
        return "-"
    return "on" if not deployment.paused and any(each.active for each in deployment.schedules) else "paused"
