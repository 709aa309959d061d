"""Templates of `sluice new`: the flow's file, its test and its block in `prefect.yaml`, for an inlet and an outlet."""

from dataclasses import dataclass
from string import Template
from typing import Literal

from tasks.base.shell import sluice_command

__all__ = ["CLONE", "INLET", "OUTLET", "OWN", "Home", "filled", "next_steps"]


@dataclass(frozen=True, slots=True)
class Home:
    """The folder of a new flow, the packages that its files import from, and the commands of its project."""

    folder: str
    decorators: str
    testing: str
    test: str
    up: str


CLONE = Home("flows", "flows", "tasks.testing", "make test ARGS=tests/test_{name}.py", "`make up`")
OWN = Home("pipelines", "sluice", "sluice.testing", "python -m pytest tests/test_{name}.py", "`sluice up`")


def filled(template: str, home: Home, **values: str) -> str:
    """Return the template with its values put in; `topic` and `keep` are Python code."""
    imported = ", ".join(sorted(["described", values["name"]]))
    imports = (
        "from sluice import Entry, has, outlet"
        if home is OWN
        else "from flows import outlet\nfrom tasks import Entry, has"
    )
    return Template(template).substitute(
        values, imported=imported, imports=imports, folder=home.folder, decorators=home.decorators, testing=home.testing
    )


_INLET_FLOW = '''\
"""$name: say here what it is about."""

import psutil

from $decorators import inlet

__all__ = ["$name"]


@inlet(topic=$topic, every="5s"$keep)
def $name(scale: float = 1.0) -> dict[str, float]:
    """How much of this machine's memory is used, in percent. Poll here what you are after: this is what the UI shows.

    Args:
        scale: What one percent counts.
    """
    return {"$name": scale * psutil.virtual_memory().percent}
'''

_INLET_TEST = '''\
"""What $name pumps."""

from hypothesis import given
from hypothesis import strategies as st

from $folder.$name import $name
from $testing import pumped


@given(st.floats(0, 1e6))
def test_an_entry_is_one_number_in_a_field_of_its_own(scale: float) -> None:
    [entry] = pumped($name.pump, scale=scale)
    assert list(entry) == ["$name"]
    assert 0 <= entry["$name"] <= 100 * scale
'''

_INLET_BLOCK = """\
# -- $name.py: say here what it is about
- <<: *inlet
  name: $name
  entrypoint: $folder/$name.py:$name
  schedules:
    - {<<: *every_10_minutes, anchor_date: "2026-01-01T00:$offset+00:00"}
"""

_OUTLET_FLOW = '''\
"""$name: say here what it is about."""

from streamz import Stream

$imports

__all__ = ["$name"]


@outlet(topics=$topic, group="$name")
def $name(source: Stream, field: str | None = None) -> Stream:
    """What each entry holds. Make of them here what you are after: this is what the UI shows.

    Args:
        field: Which entries - those with this field. Empty - all.
    """
    wanted = source.filter(has(field)) if field else source
    return wanted.map(described)


def described(entry: Entry) -> dict[str, str]:
    """Return the type of what is in each field."""
    return {field: type(value).__name__ for field, value in entry.items()}
'''

_OUTLET_TEST = '''\
"""What $name makes of any entries, in which order, and that a crash costs none."""

from hypothesis import given
from hypothesis import strategies as st

from $folder.$name import $imported
from $testing import Pushed, drain, entries, frames

some = entries(number=st.integers(), table=frames({"code": "str", "price": "float64"}), topics=$topic)


@given(some, st.sampled_from([None, "number", "table"]))
def test_the_wanted_entries_come_out_in_push_order(pushed: list[Pushed], field: str | None) -> None:
    run = drain($name.build, pushed, field=field)
    assert run.results == [described(entry) for entry in pushed if field is None or field in entry]
    assert run.acked == pushed


@given(some, st.integers(1, 10))
def test_a_crash_repeats_what_was_not_acknowledged_and_loses_nothing(pushed: list[Pushed], crash_after: int) -> None:
    run = drain($name.build, pushed, crash_after=crash_after)
    again = crash_after
    assert run.results[:again] + run.results[again + 1 :] == [described(entry) for entry in pushed]
    assert run.acked == pushed
'''

_OUTLET_BLOCK = """\
# -- $name.py: say here what it is about
- <<: *outlet
  name: $name
  entrypoint: $folder/$name.py:$name
"""

INLET = (_INLET_FLOW, _INLET_TEST, _INLET_BLOCK)
OUTLET = (_OUTLET_FLOW, _OUTLET_TEST, _OUTLET_BLOCK)

_TEST = ("{test}", "passes as it is; edit the flow and its test together")
_DEPLOY = ("prefect deploy --all", "{up} does that and the next at its start")
_RUN = "prefect deployment run {name}/{name}"
_STEPS = {
    "inlet": (
        _TEST,
        _DEPLOY,
        (_RUN, "pumps now; without it from its schedule's next time on, within ten minutes"),
        ("{peek}", "what it pumps, until Ctrl-C"),
    ),
    "outlet": (
        _TEST,
        _DEPLOY,
        (_RUN, "starts it; it runs until it is cancelled"),
    ),
}
_LAST = {
    "inlet": "",
    "outlet": "\nIts results are in the UI, in the artifact outlet-{name}. It reads the topic {topic!r}.",
}


def next_steps(kind: Literal["inlet", "outlet"], home: Home, *, name: str, topic: str) -> str:
    """Return the next steps: a command per line, each with its purpose."""
    peek = sluice_command("peek", topic, options="--follow")
    values = {"name": name, "topic": topic, "peek": peek, "test": home.test.format(name=name), "up": home.up}
    steps = [(command.format(**values), what.format(**values)) for command, what in _STEPS[kind]]
    width = max(len(command) for command, _ in steps)
    lines = [f"  {command:{width}}   # {what}" for command, what in steps]
    return "\n".join(["", f"Next{', after `. .venv/bin/activate`' if home is CLONE else ''}:", *lines]) + _LAST[
        kind
    ].format(**values)
