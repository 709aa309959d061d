"""Deployed runs that share a partitioned topic: their load, their results, and which process works on which partition."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import redis
import yaml

from tasks.reservoir import Reservoir
from tasks.reservoir.partitions import partition_for
from tests.support.plain import ROOT, Plain
from tests.support.repeating import repeating

__all__ = [
    "KEYS",
    "PARTITIONS",
    "deploy",
    "deploy_blocks",
    "expect_exact_results",
    "like_shipped",
    "push",
    "steady_load",
    "workers_of",
]

PARTITIONS, KEYS = 4, range(16)
_PAUSE = 0.1  # seconds between two rounds of pushes


def push(client: redis.Redis, pushed: Counter[int], *, rounds: int = 1) -> None:
    """Push a number for each key, `rounds` times; count them in `pushed`."""
    reservoir = Reservoir(client)
    for _ in range(rounds):
        reservoir.push_many(
            "shared", [{"key": key, "n": pushed[key]} for key in KEYS], partitions=PARTITIONS, key="key"
        )
        pushed.update(KEYS)


@contextmanager
def steady_load(client: redis.Redis) -> Iterator[Counter[int]]:
    """Push numbers for all keys within this context; yield how many each key has."""
    pushed: Counter[int] = Counter()
    with repeating(lambda: push(client, pushed), every=_PAUSE):
        yield pushed


def workers_of(client: redis.Redis, *, newest: int = 4 * len(KEYS)) -> dict[int, int]:
    """Return the process that made the newest result of each partition."""
    found: dict[int, int] = {}
    for entry in Reservoir(client).peek("counts", newest):
        assert not isinstance(entry, Exception)
        found[partition_for(entry["key"], PARTITIONS)] = entry["by"]
    return found


def expect_exact_results(client: redis.Redis, pushed: Counter[int]) -> None:
    """Check that each entry has one result, that those of a key are in order, and that each key's state counted on."""
    found: list[Any] = Reservoir(client).peek("counts", pushed.total() + 1_000)
    assert len(found) == pushed.total()
    for key in KEYS:
        of_key = [entry for entry in found if entry["key"] == key]
        assert [entry["n"] for entry in of_key] == list(range(pushed[key]))
        assert [entry["count"] for entry in of_key] == list(range(1, pushed[key] + 1))


@contextmanager
def deploy(stack: Plain, *blocks: dict[str, Any]) -> Iterator[list[UUID]]:
    """Deploy blocks of `prefect.yaml` that name the flow `counting`; yield the deployments, and delete them at the end."""
    deploy_blocks(stack, *blocks)
    made = [stack.deployment(f"counting/{block['name']}") for block in blocks]
    try:
        yield made
    finally:
        for each in made:
            stack.client.delete_resource_owned_automations(f"prefect.deployment.{each}")
            stack.client.delete_deployment(each)


def deploy_blocks(stack: Plain, *blocks: dict[str, Any]) -> None:
    """Deploy blocks of `prefect.yaml`, which stay."""
    declared = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    file = stack.folder / "blocks.yaml"
    file.write_text(yaml.safe_dump({"pull": declared["pull"], "deployments": list(blocks)}))
    stack.prefect("deploy", "--prefect-file", str(file), "--all")


def like_shipped(**changes: Any) -> dict[str, Any]:
    """Return a shipped outlet's block of `prefect.yaml`, for the flow `counting` unless changed."""
    declared = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    shipped = next(each for each in declared if each["name"] == "movers")
    return shipped | {"entrypoint": "tests/chaos/deployed.py:counting", "name": "counting"} | changes
