"""Write docs/reference.md from the docstrings: `python docs/make_reference.py`.

tests/project/test_docs.py fails if the file is out of date.
"""

import inspect
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Unpack, get_origin

import typer
from prefect import Flow
from prefect.utilities.callables import parameter_docstrings

import flows
import tasks
from deployments.cli import app
from flows import alerts, clock, market, upkeep, vitals
from tasks import Cursor, Delivery, Entry, Reservoir, SluiceError, has, testing
from tasks.archive import compaction, dataset
from tasks.base import quantities
from tasks.nodes import (
    engine,
    event_time,
    join_asof,
    join_interval,
    keyed_state,
    session_window,
    sliding_window,
    time_window,
)
from tasks.nodes import from_redis as source
from tasks.nodes import map_in_processes as processes
from tasks.nodes import to_parquet as parquet
from tasks.nodes import to_redis as sinks
from tasks.nodes import to_sink as deliveries
from tasks.pipeline import trust
from tasks.reservoir.levels import GroupLevel, TopicLevel
from tasks.settings import redis_url
from tasks.sinks.deliveries import IdempotentSink
from tasks.sinks.http_post import HttpPost
from tasks.sinks.sql_upsert import SqlUpsert

__all__ = ["FILE", "reference"]

FILE = Path(__file__).with_name("reference.md")

_HEAD = """\
# Reference

[`make_reference.py`](make_reference.py) writes this page from the docstrings.
The names on it are the public API; everything else may change.
"""

# The public methods of Reservoir; sources and sinks use the others.
_METHODS = ("from_url", "push", "push_many", "peek", "topics", "levels")

_ARCHIVE = """\
[archive.md](archive.md) describes the files.
Every row has these columns, besides those of its frame or fields:

| Column | Type | Content |
| --- | --- | --- |
| `entry_id` | text | the id of the entry |
| `entry_time` | timestamp of milliseconds, UTC | the time of that id |
| `topic` | text, from the folder | the topic; of a name of more than 120 bytes, a hash |
| `kind` | text, from the folder | the field of the frame, or the fields of the row, joined by `+` |
| `day` | text, from the folder | the UTC day of the id |
"""

# `name      description`, aligned as in most docstrings; continuation lines are indented.
_DEFINITION = re.compile(r"(\S+(?:,? \S+)*?)\s{2,}(\S.*)")


def reference() -> str:
    """Return the page."""
    parts = [_HEAD, "## Decorators\n\n`from flows import inlet, outlet`\n"]
    parts += [_options(flows.inlet, "@inlet"), _options(flows.outlet, "@outlet")]
    parts.append(f"## Durations and sizes\n\n{_prose(quantities.__doc__ or '')}")
    parts.append(
        "## streamz sources, nodes and sinks\n\n`import tasks` registers them; where Sluice is installed, streamz also finds them by itself.\n"
    )
    parts.append(_callable(source.from_redis, "Stream.from_redis", skip=1))
    parts.append(_callable(engine.engine, "Stream.engine", skip=1))
    parts.append(_callable(processes.map_in_processes, ".map_in_processes", skip=2))
    parts.append(_callable(keyed_state.keyed_state, ".keyed_state", skip=2))
    parts.append(_callable(sliding_window.sliding_window, ".sliding_window", skip=1))
    parts.append(_callable(time_window.time_window, ".time_window", skip=2))
    parts.append(_callable(session_window.session_window, ".session_window", skip=2))
    parts.append(_callable(join_asof.join_asof, ".join_asof", skip=2))
    parts.append(_callable(join_interval.join_interval, ".join_interval", skip=2))
    parts.append(_callable(time_window.time_window.agg, ".time_window(...).agg", skip=1))
    parts.append(_callable(sinks.to_redis, ".to_redis", skip=2))
    parts.append(_callable(parquet.to_parquet, ".to_parquet", skip=2))
    parts.append(_callable(deliveries.to_sink, ".to_sink", skip=2))
    parts.append(_callable(SqlUpsert, "SqlUpsert", skip=1))
    parts.append(_callable(HttpPost, "HttpPost", skip=1))
    parts.append(_callable(Delivery, "Delivery", skip=1))
    parts += [f"### `IdempotentSink`\n\n{_prose(inspect.getdoc(IdempotentSink) or '')}", _members(IdempotentSink)]
    parts.append(f"{_callable(trust, 'trust')}\n`from tasks.pipeline import trust`\n")
    parts.append("## Entries and topics\n\n`from tasks import Cursor, Delivery, Entry, Reservoir, has`\n")
    parts += [_callable(Cursor, "Cursor", skip=1)]
    parts += [_callable(Entry, "Entry", skip=1), _members(Entry), _callable(has, "has")]
    parts.append(_callable(Reservoir, "Reservoir", skip=1))
    parts += [_callable(getattr(Reservoir, name), f"Reservoir.{name}", skip=1) for name in _METHODS]
    parts += [f"### `{each.__name__}`\n\n{_prose(inspect.getdoc(each) or '')}" for each in (TopicLevel, GroupLevel)]
    parts.append(
        "## Archives\n\n`from tasks.archive.dataset import open_archive, open_kind`, `from tasks.archive.compaction import compact`\n"
    )
    parts.append(_ARCHIVE)
    parts += [_callable(dataset.open_archive, "open_archive"), _callable(dataset.open_kind, "open_kind")]
    parts.append(_callable(compaction.compact, "compact"))
    parts.append(
        f"## Tests of your own\n\n`from tasks.testing import drain, entries`...\n\n{_prose(testing.__doc__ or '')}"
    )
    parts += [_callable(getattr(testing, name), name) for name in ("drain", "pumped", "entries", "frames", "values")]
    parts += [
        _callable(testing.fake_redis, "fake_redis"),
        _callable(testing.Bench, "Bench", skip=1),
        _members(testing.Bench),
    ]
    parts.append(f"### `Dead`\n\n{_prose(inspect.getdoc(testing.Dead) or '')}")
    parts.append(f"### `Pushed`\n\n{_prose(inspect.getdoc(testing.Pushed) or '')}")
    parts.append(f"## Address of Redis\n\n{_prose(inspect.getdoc(redis_url) or '')}")
    parts.append("## Errors\n\n`from tasks import ...`, as a tree:\n")
    parts.append(_errors())
    parts.append("## Shipped flows\n")
    parts += [_flow(each) for module in (upkeep, alerts, clock, vitals, market) for each in _flows(module)]
    parts.append("## The `sluice` command\n")
    parts += list(_commands(typer.main.get_command(app)))
    return "\n".join(parts).rstrip() + "\n"


def _options(decorator: Callable[..., Any], title: str) -> str:
    """Return a decorator's parameters as a table, with the descriptions of Prefect's form."""
    text = inspect.getdoc(decorator) or ""
    described = parameter_docstrings(text)
    rows = [
        (p.name, "required" if p.default is p.empty else f"`{p.default!r}`", described[p.name])
        for p in inspect.signature(decorator).parameters.values()
    ]
    before, _, after = text.partition("\nArgs:\n")
    behind = after.partition("\n\n")[2]
    return "\n".join([f"### `{title}`\n", _prose(before), _table(("Parameter", "Default", ""), rows), _prose(behind)])


def _callable(thing: Callable[..., Any], title: str, *, skip: int = 0) -> str:
    """Return the signature of a callable, without its first `skip` parameters, and its docstring."""
    called = thing.__init__ if isinstance(thing, type) else thing
    parameters = list(inspect.signature(called).parameters.values())
    bound = skip if not inspect.ismethod(called) else 0  # inspect.signature omits `cls` of a class method
    parameters = [each for p in parameters[bound:] for each in _spelled_out(p)]
    shown = [p.replace(annotation=p.empty) for p in parameters if p.kind is not p.VAR_KEYWORD]
    signature = str(inspect.Signature(shown))
    return f"### `{title}{signature}`\n\n{_prose(inspect.getdoc(thing) or '')}"


def _spelled_out(parameter: inspect.Parameter) -> Iterable[inspect.Parameter]:
    """Yield a parameter; in place of `**options` of nodes of event time, those that all of these nodes have."""
    if get_origin(parameter.annotation) is not Unpack:
        yield parameter
        return
    for each in inspect.signature(event_time.EventTimeNode.__init__).parameters.values():
        if each.kind is each.KEYWORD_ONLY and each.name != "stream_name":
            yield each


def _members(thing: type) -> str:
    named = [(name, value) for name, value in vars(thing).items() if not name.startswith("_") and inspect.getdoc(value)]
    return _table(("", ""), [(f".{name}", _first_line(value)) for name, value in named])


def _errors() -> str:
    def below(error: type[Exception], depth: int) -> Iterable[str]:
        yield f"{'  ' * depth}- `{error.__name__}`: {_first_line(error)}"
        for each in sorted(error.__subclasses__(), key=lambda one: one.__name__):
            if each.__name__ in tasks.__all__:
                yield from below(each, depth + 1)

    return "\n".join(below(SluiceError, 0)) + "\n"


def _flows(module: Any) -> list[Any]:
    return [value for name in module.__all__ if isinstance(value := getattr(module, name), Flow)]


def _flow(flow: Any) -> str:
    """Return a shipped flow with its own parameters; the section on decorators lists the others."""
    text = inspect.getdoc(flow.fn) or ""
    described = parameter_docstrings(text)
    kind = "outlet" if hasattr(flow, "build") else "inlet" if hasattr(flow, "pump") else "flow"
    own = inspect.signature(getattr(flow, "build", getattr(flow, "pump", flow.fn))).parameters
    rows = [
        (name, "required" if p.default is p.empty else f"`{p.default!r}`", described.get(name, ""))
        for name, p in own.items()
        if name in inspect.signature(flow.fn).parameters
    ]
    table = _table(("Parameter", "Default", ""), rows) if rows else ""
    return f"### `{flow.name}` ({kind})\n\n{_prose(text.partition(chr(10) + 'Args:')[0])}\n{table}"


def _commands(group: Any, *before: str) -> Iterable[str]:
    """Return the commands with their options; typer bundles its own click, so types are recognized by name."""
    for name, command in sorted(group.commands.items()):
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        title = " ".join(["sluice", *before, name, *(p.name.upper() for p in arguments)])
        rows = [
            (p.name.upper() if p in arguments else ", ".join([*p.opts, *p.secondary_opts]), _default(p), p.help or "")
            for p in command.params
        ]
        yield f"### `{title}`\n\n{_prose(inspect.cleandoc(command.help or ''))}"
        if rows:
            yield _table(("Option", "Default", ""), rows)
        if hasattr(command, "commands"):
            yield from _commands(command, *before, name)


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    return "" if parameter.default in (None, False) else f"`{parameter.default}`"


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def _prose(text: str) -> str:
    """Return a docstring as Markdown: paragraphs unchanged, aligned definitions as a table, doctests as code."""
    parts = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        lines = paragraph.splitlines()
        if lines and lines[0].startswith(">>>"):
            parts.append("```pycon\n" + "\n".join(lines) + "\n```\n")
        elif lines and lines[0].startswith("    "):
            continue  # an example; the how-to pages have them
        elif lines and _DEFINITION.fullmatch(lines[0]):
            found = _definitions(lines)
            if rows := [(name, description) for name, description in found if name != "raises"]:
                parts.append(_table(("", ""), rows))
            parts += [f"Raises {description}\n" for name, description in found if name == "raises"]
        elif lines:
            parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _definitions(lines: Iterable[str]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for line in lines:
        if line.startswith(" "):
            name, description = found[-1]
            found[-1] = (name, f"{description} {line.strip()}")
        elif match := _DEFINITION.fullmatch(line):
            found.append((match[1], match[2]))
        else:
            msg = f"expected a name, two or more spaces and a description, or an indented line, got {line!r}"
            raise ValueError(msg)
    return found


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *((f"`{name}`", *map(_cell, rest)) for name, *rest in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cell(text: str) -> str:
    """Return text as one table cell: on one line, with `|` and, outside code, `<` escaped."""
    parts = " ".join(text.split()).replace("|", "\\|").split("`")
    return "`".join(part if i % 2 else part.replace("<", "&lt;") for i, part in enumerate(parts))


if __name__ == "__main__":
    FILE.write_text(reference())
