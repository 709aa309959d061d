"""What `sluice status` and `sluice peek` show."""

import os
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deployments.ledger import Ledger
from deployments.prefect_server import answers
from deployments.tables import entry_table, levels_table
from tasks.errors import SluiceError
from tasks.reservoir import Reservoir
from tasks.settings import check_topic, redis_url, state_dir, without_password

__all__ = ["find_server", "peek", "status"]

_COLOURS = {"RUNNING": "green", "FAILED": "red", "CRASHED": "red", "CANCELLED": "yellow", "CANCELLING": "yellow"}


def peek(console: Console, topic: str, n: int) -> None:
    """Print the newest `n` entries of a topic, oldest first, decoded."""
    entries = Reservoir.from_url(redis_url()).peek(check_topic(topic, derived=True), n)
    for entry in entries:
        console.print(entry_table(topic, entry, width=console.width))
    if not entries:
        console.print(f"{topic} holds no entries")


def status(console: Console) -> bool:
    """Print stack, deployments and topics; return whether both servers answered."""
    ledger = Ledger(state_dir())
    holder = ledger.holder()
    console.print(f"sluice up    {f'running (process {holder})' if holder else 'not running here'}", highlight=False)
    prefect = _prefect(console, ledger if holder else None)
    return _reservoir(console) and prefect


def _prefect(console: Console, ledger: Ledger | None) -> bool:
    url = find_server(ledger)
    if not url or not answers(url):
        console.print(f"Prefect      no server answers{f' at {without_password(url)}' if url else ''}", highlight=False)
        return False
    console.print(f"Prefect      {url.removesuffix('/api')}", highlight=False)
    from prefect.client.orchestration import get_client  # noqa: PLC0415 - only now, see find_server

    with get_client(sync_client=True) as client:
        from deployments.runs import last_runs  # noqa: PLC0415

        table = Table(show_edge=False, pad_edge=False)
        for column in ("deployment", "schedule", "last run", "since"):
            table.add_column(column)
        for name, schedule, run in last_runs(client):
            kind = run.state_type.value if run and run.state_type else ""
            state = Text(run.state_name or "" if run else "never ran", style=_COLOURS.get(kind, "dim"))
            table.add_row(name, schedule, state, _since(run.state.timestamp) if run and run.state else "")
        console.print(table)
    return True


def find_server(ledger: Ledger | None) -> str:
    """Return where the Prefect server is, '' if nothing says so: the one of `sluice up`, if it runs and no other is set."""
    if not os.environ.get("PREFECT_API_URL") and ledger and (url := ledger.api_url()):
        os.environ["PREFECT_API_URL"] = url
    # Only now: Prefect reads its settings when it is imported.
    from prefect.settings import get_current_settings  # noqa: PLC0415

    return str(get_current_settings().api.url or "")


def _reservoir(console: Console) -> bool:
    try:
        url = redis_url()
        levels = Reservoir.from_url(url).levels()
    except SluiceError as error:
        console.print(f"Redis        {error}", highlight=False)
        return False
    console.print(f"Redis        {without_password(url)}", highlight=False, soft_wrap=True)
    console.print(levels_table(levels) if levels else "no topics yet")
    return True


def _since(moment: datetime) -> str:
    seconds = (datetime.now(UTC) - moment).total_seconds()
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"  # noqa: PLR2004 - two minutes
