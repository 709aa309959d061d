"""Deployments that are called as their flows now: renamed in a server's database, and found by their old names."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import UUID

import pytest
from prefect.exceptions import ObjectNotFound

from deployments.servers.old_names import new_name, old_name, rename_deployments
from tests.support.plain import Plain

FILE = "flows/named.py"


@pytest.fixture
def server(prefect_server: Plain) -> Iterator[Plain]:
    yield prefect_server
    for flow in prefect_server.client.read_flows():
        if flow.name in ("prices", "extremes"):
            prefect_server.client.delete_flow(flow.id)


def deploy(server: Plain, full: str) -> UUID:
    flow, _, name = full.partition("/")
    of = server.client.create_flow_from_name(flow)
    return server.client.create_deployment(of, name, entrypoint=f"{FILE}:{flow}", tags=["sluice"])


def names_in(home: Path) -> dict[UUID, str]:
    with closing(sqlite3.connect(home / "prefect.db")) as database:
        rows = database.execute(
            "SELECT deployment.id, flow.name, deployment.name FROM deployment JOIN flow ON flow.id = deployment.flow_id "
            "WHERE flow.name IN ('prices', 'extremes')"
        ).fetchall()
    return {UUID(id_): f"{flow}/{name}" for id_, flow, name in rows}


def test_old_and_new_names_belong_together() -> None:
    for flow in ("quotes", "main", "replay"):
        for old in ("main", "replay"):
            assert old_name(flow, new_name(flow, old) or "") == old
        assert new_name(flow, "second") is old_name(flow, "second") is None


def test_deployments_of_a_stopped_server_are_renamed_once(server: Plain, tmp_path: Path) -> None:
    main, replay, second = (deploy(server, f"extremes/{name}") for name in ("main", "replay", "second"))
    kept = deploy(server, "prices/main")
    server.copy_database(tmp_path / "prefect.db")
    declared = [(f"{FILE}:extremes", "extremes"), (f"{FILE}:extremes", "extremes-replay"), (f"{FILE}:prices", "main")]
    assert rename_deployments(tmp_path, declared) == ["extremes/extremes", "extremes/extremes-replay"]
    assert names_in(tmp_path) == {
        main: "extremes/extremes",
        replay: "extremes/extremes-replay",
        second: "extremes/second",
        kept: "prices/main",
    }
    assert rename_deployments(tmp_path, declared) == []


def test_a_deployment_is_not_renamed_if_another_has_its_new_name(server: Plain, tmp_path: Path) -> None:
    both = {deploy(server, full): full for full in ("extremes/main", "extremes/extremes")}
    server.copy_database(tmp_path / "prefect.db")
    assert rename_deployments(tmp_path, [(f"{FILE}:extremes", "extremes")]) == []
    assert names_in(tmp_path) == both


def test_without_a_database_nothing_is_renamed(tmp_path: Path) -> None:
    declared = [(f"{FILE}:extremes", "extremes")]
    assert rename_deployments(tmp_path, declared) == []
    with closing(sqlite3.connect(tmp_path / "prefect.db")) as database, database:
        database.execute("CREATE TABLE other (id)")
    assert rename_deployments(tmp_path, declared) == []


def test_the_server_finds_a_deployment_by_its_old_name(server: Plain) -> None:
    new, replay = deploy(server, "extremes/extremes"), deploy(server, "extremes/extremes-replay")
    assert server.deployment("extremes/main") == new
    assert server.deployment("extremes/replay") == replay
    with pytest.raises(ObjectNotFound):
        server.deployment("extremes/other")
    another = deploy(server, "extremes/main")
    assert server.deployment("extremes/main") == another
    assert server.deployment("extremes/extremes") == new
