"""`sluice logs` on a real Prefect server."""

import io
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import LogCreate
from prefect.states import Running
from rich.console import Console

from deployments.commands.logs import logs
from tasks import SettingsError

pytestmark = pytest.mark.usefixtures("prefect")

BEGAN = datetime(2026, 1, 2, tzinfo=UTC)


@flow
def logged() -> None: ...


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client
        client.delete_flow(client.create_flow(logged))  # and its deployments


def run(client: SyncPrefectClient, deployment: UUID, lines: int) -> None:
    """Make a run that has logged lines, the last of them a warning."""
    made = client.create_flow_run_from_deployment(deployment).id
    client.set_flow_run_state(made, Running(), force=True)
    for first in range(0, lines, 100):
        page = [
            LogCreate(
                name="sluice",
                level=logging.WARNING if n == lines - 1 else logging.INFO,
                message=f"line {n} \x1b[2J",
                timestamp=BEGAN + timedelta(seconds=n),
                flow_run_id=made,
            )
            for n in range(first, min(lines, first + 100))
        ]
        client.create_logs(page)


def printed(name: str, n: int) -> list[str]:
    console = Console(file=io.StringIO(), width=200)
    logs(console, name, n=n)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_the_newest_lines_of_the_last_run_are_printed_oldest_first(
    client: SyncPrefectClient, capsys: pytest.CaptureFixture[str]
) -> None:
    deployment = client.create_deployment(client.create_flow(logged), "main")
    assert printed("logged", 5) == []
    assert capsys.readouterr().err == "logged/main never ran\n"
    run(client, deployment, 3)
    run(client, deployment, 250)
    assert [line.split("line ")[1].split()[0] for line in printed("logged/main", 3)] == ["247", "248", "249"]
    everything = printed("logged", 1_000)  # of several pages
    assert [line.split("line ")[1].split()[0] for line in everything] == [str(n) for n in range(250)]
    assert not any("\x1b" in line for line in everything)


def test_own_name_of_a_deployment_suffices_where_no_other_has_it(
    client: SyncPrefectClient, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("logged", "logged-replay"):
        client.create_deployment(client.create_flow(logged), name)
    printed("logged-replay", 5)
    printed("logged", 5)
    assert capsys.readouterr().err == "logged/logged-replay never ran\nlogged/logged never ran\n"


def test_logs_of_an_unknown_deployment_are_refused(client: SyncPrefectClient) -> None:
    client.create_deployment(client.create_flow(logged), "main")
    with pytest.raises(SettingsError, match="nothing"):
        printed("nothing", 5)
