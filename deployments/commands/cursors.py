"""`sluice cursor`: show what inlets remember, set a cursor, or delete it."""

import json
import time
from typing import Any

import redis
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deployments.show.as_json import line, plain
from deployments.show.confirm import confirm
from tasks import codec
from tasks.base.plain_text import one_line, printable
from tasks.base.quantities import in_time
from tasks.errors import PoisonEntryError, SettingsError
from tasks.reservoir.connection import connect
from tasks.reservoir.cursors import CursorStore, Remembered, cursors
from tasks.settings import redis_url

__all__ = ["delete_cursor", "set_cursor", "show_cursors"]

_VALUE = 120  # characters


def show_cursors(console: Console, name: str | None, *, as_json: bool = False) -> None:
    """Print the cursors of an inlet, or of all inlets; raises SettingsError if the inlet has none."""
    client = connect(redis_url(), retries=0)
    found = [(id_, CursorStore(client, id_).read()) for id_ in (_found(client, name) if name else cursors(client))]
    if as_json:
        for id_, remembered in found:
            print(line(_object(id_, remembered)), flush=True)  # noqa: T201 - rich would wrap it
        return
    console.print(_table(found) if found else Text("no inlet has a cursor"))


def set_cursor(console: Console, name: str, value: str, *, yes: bool = False) -> None:
    """Set the cursor of an inlet, once that is confirmed.

    value     JSON; other text is a string
    raises    SettingsError: the inlet has no cursor, or several; or the answer is no; nothing was changed
    """
    store = _one(name)
    try:
        new = json.loads(value)
    except ValueError:
        new = value
    if not yes:
        confirm(
            f"set the cursor of {name!r} from {_shown(store.read())} to {new!r}? Entries may be pushed again, or left out"
        )
    store.set(codec.encode(new))
    console.print(f"the cursor of {name!r} is {new!r}; the next call begins there", soft_wrap=True, markup=False)


def delete_cursor(console: Console, name: str, *, yes: bool = False) -> None:
    """Delete the cursor of an inlet, once that is confirmed; raises as `set_cursor`."""
    store = _one(name)
    if not yes:
        confirm(f"delete the cursor of {name!r}, {_shown(store.read())}? The next call begins anew")
    store.delete()
    console.print(f"the cursor of {name!r} is deleted; the next call begins anew", soft_wrap=True, markup=False)


def _one(name: str) -> CursorStore:
    client = connect(redis_url(), retries=0)
    found = _found(client, name)
    if len(found) > 1:
        msg = f"inlet {name!r}: expected one cursor, got one for each set of parameters; name one of {', '.join(found)}"
        raise SettingsError(msg)
    return CursorStore(client, found[0])


def _found(client: redis.Redis, name: str) -> list[str]:
    """Return the ids of an inlet's cursors; `name` may be such an id."""
    every = list(cursors(client))
    found = [id_ for id_ in every if name in (id_, id_.rpartition(":")[0])]
    if not found:
        known = ", ".join(sorted({id_.rpartition(":")[0] for id_ in every})) or "none"
        msg = f"expected an inlet with a cursor ({known}), got {name!r}; a cursor exists from its first move on"
        raise SettingsError(msg)
    return found


def _table(found: list[tuple[str, Remembered]]) -> Table:
    table = Table(show_edge=False, pad_edge=False)
    for name in ("inlet", "topic", "value", "moved"):
        table.add_column(name, overflow="fold")
    for id_, remembered in found:
        cells = (printable(id_), printable(remembered.topic or "-"), _shown(remembered), _ago(remembered))
        table.add_row(*map(Text, cells))
    return table


def _object(id_: str, remembered: Remembered) -> dict[str, Any]:
    inlet, _, digest = id_.rpartition(":")
    return {
        "inlet": inlet,
        "parameters": digest,
        "topic": remembered.topic,
        "value": plain(_value(remembered)),
        "version": remembered.version,
        "moved": remembered.moved_ms / 1000,
    }


def _value(remembered: Remembered) -> Any:
    if not remembered.memory.value:
        return None
    try:
        return codec.decode(remembered.memory.value)
    except PoisonEntryError as error:
        return str(error)


def _shown(remembered: Remembered) -> str:
    if not remembered.memory.value:
        return "-" if remembered.memory.digest else "at its start"
    return one_line(repr(_value(remembered)), _VALUE)


def _ago(remembered: Remembered) -> str:
    return f"{in_time(max(0.0, time.time() - remembered.moved_ms / 1000))} ago"
