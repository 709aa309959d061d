"""Names that deployments had before they were called as their flows: `quotes/main` is `quotes/quotes` now, `movers/replay` is `movers/movers-replay`.

Prefect's API cannot rename a deployment (3.9.1). A server that `sluice up` starts gets its deployments renamed in its database, so
that they keep their runs, schedules and pauses, and it still finds them by their old names, which scripts use.
"""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

__all__ = ["find_by_old_names", "new_name", "old_name", "rename_deployments"]

_OLD = {"main": "", "replay": "-replay"}
"""Old names, and what a new one has behind the flow's name."""


def new_name(flow: str, name: str) -> str | None:
    """Return the name that a deployment of a flow has now; None for one that never had another.

    >>> new_name("movers", "main"), new_name("movers", "replay"), new_name("movers", "second")
    ('movers', 'movers-replay', None)
    """
    return f"{flow}{_OLD[name]}" if name in _OLD else None


def old_name(flow: str, name: str) -> str | None:
    """Return the name that a deployment of a flow had before; None for one that never had another.

    >>> old_name("movers", "movers"), old_name("movers", "movers-replay"), old_name("movers", "second")
    ('main', 'replay', None)
    """
    return next((old for old in _OLD if new_name(flow, old) == name), None)


def rename_deployments(home: Path, declared: Iterable[tuple[str, str]]) -> list[str]:
    """Rename deployments in the database of a server that does not run; return the new full names.

    home       the server's PREFECT_HOME; without a database, nothing is renamed
    declared   entrypoint and name of all deployments of `prefect.yaml`: one that has the old name there keeps it
    """
    file, wanted = home / "prefect.db", set(declared)
    if not file.exists():
        return []
    with closing(sqlite3.connect(file)) as database, database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'deployment'").fetchone():
            return []  # a server that was killed at its first start
        rows = database.execute(
            "SELECT deployment.id, flow.name, deployment.name, deployment.entrypoint, deployment.flow_id "
            "FROM deployment JOIN flow ON flow.id = deployment.flow_id"
        ).fetchall()
        taken = {(flow_id, name) for _, _, name, _, flow_id in rows}
        renamed = []
        for id_, flow, name, entrypoint, flow_id in rows:
            new = new_name(flow, name)
            if (entrypoint, name) in wanted or (entrypoint, new) not in wanted or (flow_id, new) in taken:
                continue
            database.execute("UPDATE deployment SET name = ? WHERE id = ?", (new, id_))
            renamed.append(f"{flow}/{new}")
    return sorted(renamed)


def find_by_old_names() -> None:
    """Let the server of this process find a deployment by its old name, unless another one has that name."""
    from prefect.server.models import deployments  # noqa: PLC0415 - the server's process imports it later

    find = deployments.read_deployment_by_name

    async def found(session: Any, name: str, flow_name: str) -> Any:
        at_once = await find(session=session, name=name, flow_name=flow_name)
        new = new_name(flow_name, name)
        return at_once if at_once or not new else await find(session=session, name=new, flow_name=flow_name)

    deployments.read_deployment_by_name = found
