"""Lua scripts in files, with names for their keys and arguments.

A file begins with the names of its keys and arguments, in order:

    -- keys: lease topics... [record]
    -- args: token group ids...

In the script they are local variables. A list such as `topics...` becomes two variables: its values are KEYS[topics_from]
to KEYS[topics_to]; KEYS and ARGV may have several lists. A key in brackets comes last and may be None, nil in the script.

The line `-- include: NAME` is replaced by the text of NAME.lua, which may include other files.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import redis

__all__ = ["Call", "Script", "load"]

_SHARED = Path(__file__).parent / "scripts"
_INCLUDE = re.compile(r"^ *-- include: (\w+)$", re.MULTILINE)
_SIGNATURE = re.compile(r"^-- (keys|args):(.*)\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Names:
    """The names of KEYS or ARGV: single values, then lists.

    is_last_optional   the last single one may be None
    """

    single: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    is_last_optional: bool = False

    @classmethod
    def of(cls, line: str) -> "Names":
        """Parse the names in a line of a signature.

        >>> Names.of("lease topics...")
        Names(single=('lease',), lists=('topics',), is_last_optional=False)
        """
        parts = line.split()
        lists = tuple(part.removesuffix("...") for part in parts if part.endswith("..."))
        single = tuple(part.strip("[]") for part in parts if not part.endswith("..."))
        is_last_optional = bool(parts) and parts[-1].startswith("[")
        spelled = [*single[:-1], f"[{single[-1]}]"] if is_last_optional else [*single, *(f"{one}..." for one in lists)]
        if parts != spelled or not all(name.isidentifier() for name in (*single, *lists)):
            msg = f"expected names, then lists (names...) or one [name], got {line.strip()!r}"
            raise ValueError(msg)
        return cls(single, lists, is_last_optional)

    @property
    def items(self) -> list[str]:
        """The elements of a Python list display with all values."""
        items = [*self.single, *(f"*{name}" for name in self.lists)]
        return [*items[:-1], f"*(() if {items[-1]} is None else ({items[-1]},))"] if self.is_last_optional else items

    def prefix(self, table: str, *, first: int, counts: int) -> str:
        """Return the Lua code that assigns the elements of KEYS or ARGV to their names.

        first    index of the first element
        counts   index in ARGV of the first list's length; the last list has none
        """
        places = (f"{table}[{first + n}]" for n in range(len(self.single)))
        lines = [f"local {', '.join(self.single)} = {', '.join(places)}"] if self.single else []
        start = str(first + len(self.single))
        for n, name in enumerate(self.lists):
            end = f"#{table}" if name == self.lists[-1] else f"{start} + ARGV[{counts + n}] - 1"
            lines.append(f"local {name}_from, {name}_to = {start}, {end}")
            start = f"{name}_to + 1"
        return "".join(f"{line}\n" for line in lines)


@dataclass(frozen=True)
class Script:
    """One script, with the names of its keys and arguments.

    body   the Lua code without the assignment of names
    """

    name: str
    keys: Names
    args: Names
    body: str

    @cached_property
    def text(self) -> str:
        """The whole Lua code for Redis."""
        keys = self.keys.prefix("KEYS", first=1, counts=1)
        args = self.args.prefix("ARGV", first=1 + len(self._counted), counts=1 + len(self.keys.lists[:-1]))
        return keys + args + self.body

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of all keys and arguments."""
        return (*self.keys.single, *self.keys.lists, *self.args.single, *self.args.lists)

    @cached_property
    def _counted(self) -> tuple[str, ...]:
        """The lists whose lengths precede the arguments."""
        return (*self.keys.lists[:-1], *self.args.lists[:-1])

    def on(self, client: redis.Redis) -> "Call":
        """Return a function that runs the script on a server."""
        return Call(self, client)

    def queue(self, pipe: Any, **given: Any) -> None:
        """Queue the script's whole text in a transaction: EVALSHA of an unknown script would fail alone, without the others."""
        keys, args = self.arguments(**given)
        pipe.eval(self.text, len(keys), *keys, *args)

    @cached_property
    def arguments(self) -> Callable[..., tuple[list[Any], list[Any]]]:
        """A function that takes the names as keywords and returns KEYS and ARGV.

        raises    TypeError: a name is missing, or unknown
        """
        # Generated like the methods of dataclasses: Python checks the names in a third of the time of explicit code.
        counts = [f"len({name})" for name in self._counted]
        keys, args = ", ".join(self.keys.items), ", ".join([*counts, *self.args.items])
        scope: dict[str, Any] = {}
        exec(f"def {self.name}(*, {', '.join(self.names)}): return [{keys}], [{args}]", scope)  # noqa: S102
        return scope[self.name]


class Call:
    """A script on one server; called with keywords, it returns the script's reply."""

    def __init__(self, script: Script, client: redis.Redis) -> None:
        self.script = script
        self._arguments = script.arguments
        self._run: Any = client.register_script(script.text)

    def __call__(self, **given: Any) -> Any:
        """Run the script, after loading it into a server that does not know it."""
        keys, args = self._arguments(**given)
        return self._run(keys=keys, args=args)

    def queue_on(self, pipe: Any, **given: Any) -> None:
        """Put the script into a pipeline; the reply is a NoScriptError if the server does not know it yet.

        redis-py would ask the server first, with a command that a user need not be allowed (SCRIPT EXISTS).
        """
        keys, args = self._arguments(**given)
        pipe.evalsha(self._run.sha, len(keys), *keys, *args)


def load(module: str, name: str) -> Script:
    """Load the script `scripts/NAME.lua` beside a module, which passes its `__file__`."""
    text = _included(Path(module).parent / "scripts", name)
    names = {"keys": "", "args": ""}
    for kind, line in _SIGNATURE.findall(text):
        names[kind] += line
    return Script(name, Names.of(names["keys"]), Names.of(names["args"]), _SIGNATURE.sub("", text))


def _included(folder: Path, name: str) -> str:
    file = folder / f"{name}.lua"
    text = (file if file.exists() else _SHARED / file.name).read_text()
    return _INCLUDE.sub(lambda found: _included(folder, found[1]), text)
