"""`sluice state` shows what the nodes of pipelines remember, resets a node's state, or exports a group's state."""

import json
import math
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from deployments.show.confirm import confirm
from deployments.show.state import state_table
from tasks.base.quantities import counted
from tasks.errors import SettingsError
from tasks.reservoir.connection import connect
from tasks.settings import redis_url
from tasks.state import inspection

__all__ = ["export_state", "reset_state", "show_state"]


def show_state(console: Console, group: str | None) -> None:
    """Print the kept state of a group, or of all groups, a line for each node.

    raises    SettingsError: the group keeps no state
    """
    client = connect(redis_url(), retries=0)
    found = [_kept(client, group)] if group else list(inspection.all_kept(client))
    console.print(state_table(found, now=time.time()) if found else Text("no group keeps state"))


def reset_state(console: Console, group: str, node: str, *, yes: bool = False) -> None:
    """Delete the stored state of a node, after a confirmation.

    raises    SettingsError: no such state, or the answer is no; nothing was changed
    """
    client = connect(redis_url(), retries=0)
    if not yes:
        console.print(state_table([_kept(client, group)], now=time.time()))
        confirm(f"delete the state of node {node!r} of group {group!r}? It begins anew, without the entries so far")
    gone = inspection.reset_node(client, group, node)
    console.print(f"the state of node {node!r} of group {group!r} is deleted, {counted(gone, 'field')}", soft_wrap=True)


def export_state(console: Console, group: str, file: Path) -> None:
    """Write the kept state of a group to a file as JSON; values without a JSON form become text.

    raises    SettingsError: the group keeps no state; OSError
    """
    client = connect(redis_url(), retries=0)
    kept = _kept(client, group)
    nodes = {
        node: [{"field": _plain(name), "value": _plain(value)} for name, value in fields.items()]
        for node, fields in inspection.exported(client, group).items()
    }
    about = {"group": group, "version": kept.version, "time": kept.time, "nodes": nodes}
    file.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    console.print(f"the state of group {group!r} is in {file}", soft_wrap=True)


def _kept(client: Any, group: str) -> inspection.KeptState:
    kept = inspection.kept_state(client, group)
    if kept is None:
        names = ", ".join(repr(one.group) for one in inspection.all_kept(client)) or "none"
        msg = f"expected a group that keeps state ({names}), got {group!r}"
        raise SettingsError(msg)
    return kept


def _plain(value: Any) -> Any:
    """Return a value for JSON; one without a JSON form, such as a frame, as text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(one) for key, one in value.items()}
    return str(value)
