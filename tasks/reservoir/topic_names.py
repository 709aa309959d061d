"""Which names topics can have, and which are reserved for streams that belong to a topic.

A topic's name is up to 200 bytes of UTF-8: printable characters, no space at the ends, and no `sluice:` at the start. Names that
end with `:dead:<group>` or `:retry:<group>` are those of a group's dead letters and retries; `:{<n>}` is reserved for partitions.
These can be read, and only Sluice pushes to them.
"""

import re

from tasks.base.plain_text import one_line
from tasks.errors import SettingsError
from tasks.reservoir.keys import OWN_PREFIX, derived_from

__all__ = ["check_topic", "is_topic", "partition_of", "partition_topic"]

_MAX_BYTES = 200
_PARTITION = re.compile(r"(.+):\{(0|[1-9][0-9]*)\}", re.DOTALL)
_RESERVED = re.compile(r"(.+):\{([0-9]+)\}", re.DOTALL)
_SHOWN = 120  # characters of a refused name


def is_topic(name: str) -> bool:
    """Return whether a stream of that name is a topic, or belongs to one as its dead letters, retries or a partition."""
    return not _fault(_owner(name))


def check_topic(name: str, *, derived: bool = False) -> str:
    """Return `name` if it can be a topic's; `derived` admits the streams that belong to topics, which can be read.

    raises    SettingsError
    """
    if not isinstance(name, str):
        msg = f"expected a topic name as a str, got a {type(name).__name__}; pass one"
        raise SettingsError(msg)
    if not derived and (why := _reserved(name)):
        msg = f"expected a topic name without a reserved ending, got {one_line(repr(name), _SHOWN)}: {why}; rename the topic"
        raise SettingsError(msg)
    if fault := _fault(_owner(name)):
        msg = f"expected a topic name {fault}, got {one_line(repr(name), _SHOWN)}; rename the topic"
        raise SettingsError(msg)
    return name


def partition_topic(topic: str, n: int) -> str:
    """Return the stream of partition `n` of a topic.

    >>> partition_topic("bars", 3)
    'bars:{3}'
    """
    return f"{topic}:{{{n}}}"


def partition_of(stream: str) -> tuple[str, int] | None:
    """Return the topic and the number of a partition; None for any other stream, such as a partition's dead letters.

    >>> partition_of("bars:{3}"), partition_of("bars")
    (('bars', 3), None)
    """
    found = _PARTITION.fullmatch(stream)
    return (found[1], int(found[2])) if found else None


def _fault(name: str) -> str:
    """Return what a name should be and is not; '' if it is a topic's."""
    if not name.isprintable():
        return "of printable characters"
    if not 0 < len(name.encode()) <= _MAX_BYTES:
        return f"of 1 to {_MAX_BYTES} bytes in UTF-8"
    if name != name.strip():
        return "without spaces at its ends"
    if name.startswith(OWN_PREFIX):
        return f"that does not start with {OWN_PREFIX!r}, as Sluice's own keys do"
    return ""


def _reserved(name: str) -> str:
    if derived := derived_from(name):
        topic, kind, group = derived
        what = "dead letters" if kind == "dead" else "retries"
        return f"this is where the {what} of group {group!r} on topic {topic!r} are"
    if partition := _RESERVED.fullmatch(name):
        return f"this is reserved for partition {partition[2]} of topic {partition[1]!r}"
    return ""


def _owner(name: str) -> str:
    """Return the topic that a stream belongs to: without what groups of Sluice's and partitions add to its name."""
    while derived := derived_from(name):
        name = derived[0]
    partition = _RESERVED.fullmatch(name)
    return partition[1] if partition else name
