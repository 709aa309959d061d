"""Which topics and groups deployments use, by their parameters, their schedules' parameters and their flows' defaults."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prefect.client.schemas.responses import DeploymentResponse

from tasks.base.shell import sluice_command
from tasks.reservoir.keys import derived_from

__all__ = ["Unshared", "Uses", "unshared", "uses_of"]

# Parameters by which flows of inlets and outlets are recognized.
_OF_INLETS = frozenset({"topic", "every", "keep", "when_full"})
_OF_OUTLETS = frozenset({"topics", "group", "into", "start_from"})


@dataclass(frozen=True, slots=True)
class Uses:
    """Topics, groups and beats that a deployment uses in Redis.

    inlet    the name under which beats are stored: that of the flow's function
    pumps    topics that it pumps into, as an inlet
    reads    topics that it reads, each with its group
    results  topics that its results go into
    """

    inlet: str = ""
    pumps: frozenset[str] = frozenset()
    reads: frozenset[tuple[str, str]] = frozenset()
    results: frozenset[str] = frozenset()

    @property
    def topics(self) -> frozenset[str]:
        """All topics that it reads or writes; of dead letters also the topic that they belong to."""
        names = {*self.pumps, *self.results, *(topic for topic, _ in self.reads)}
        return frozenset({*names, *(derived[0] for name in names if (derived := derived_from(name)))})


def uses_of(deployment: DeploymentResponse) -> Uses:
    """Return the uses of a deployment's runs; empty for one that is neither an inlet nor an outlet."""
    properties = (deployment.parameter_openapi_schema or {}).get("properties", {})
    is_inlet, is_outlet = properties.keys() >= _OF_INLETS, properties.keys() >= _OF_OUTLETS
    given = list(_variants(deployment, {name: one.get("default") for name, one in properties.items()}))
    return Uses(
        inlet=(deployment.entrypoint or "").rpartition(":")[2],
        pumps=frozenset(each["topic"] for each in given if is_inlet and each["topic"]),
        reads=frozenset((topic, each["group"]) for each in given if is_outlet for topic in _listed(each["topics"])),
        results=frozenset(each["into"] for each in given if is_outlet and each["into"]),
    )


@dataclass(frozen=True, slots=True)
class Unshared:
    """Topics, groups and beats that only the chosen deployments use.

    groups  pairs of topic and group; not those of `topics`
    inlets  pairs of topic and inlet: the inlet's beats, where the topic is shared
    stay    sentences on data that stay, with the reason
    """

    topics: tuple[str, ...]
    groups: tuple[tuple[str, str], ...]
    inlets: tuple[tuple[str, str], ...]
    stay: tuple[str, ...]


def unshared(chosen: Mapping[str, Uses], others: Mapping[str, Uses]) -> Unshared:
    """Return the data to delete with the chosen deployments. Topics of results stay; `sluice topics drop` deletes them."""
    readers = {pair: name for name, uses in others.items() for pair in uses.reads}
    users = {topic: name for name, uses in others.items() for topic in uses.topics}
    pumped = {topic for uses in chosen.values() for topic in uses.pumps}
    topics = pumped - users.keys()
    read = {pair for uses in chosen.values() for pair in uses.reads}
    beats = {(topic, uses.inlet) for uses in chosen.values() for topic in uses.pumps & users.keys()}
    beats -= {(topic, uses.inlet) for uses in others.values() for topic in uses.pumps}  # one function, deployed twice
    results = {topic for uses in chosen.values() for topic in uses.results} - topics
    stay = [f"topic {topic!r} stays: {users[topic]} uses it" for topic in sorted(pumped - topics)]
    stay += [f"group {group!r} on topic {topic!r} stays: {readers[topic, group]} reads with it" for topic, group in sorted(read & readers.keys())]  # fmt: skip
    stay += [f"topic {topic!r} stays, with the results in it; `{sluice_command('topics drop', topic)}` deletes it" for topic in sorted(results)]  # fmt: skip
    groups = {pair for pair in read - readers.keys() if pair[0] not in topics}
    return Unshared(tuple(sorted(topics)), tuple(sorted(groups)), tuple(sorted(beats)), tuple(stay))


def _variants(deployment: DeploymentResponse, defaults: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the parameters that runs are started with: those of the deployment, and of each of its schedules."""
    own = {**defaults, **deployment.parameters}
    yield own
    for schedule in deployment.schedules:
        yield {**own, **(schedule.parameters or {})}


def _listed(topics: Any) -> list[str]:
    return [topics] if isinstance(topics, str) else list(topics or ())
