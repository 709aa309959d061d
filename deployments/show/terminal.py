"""Print text literally: without control sequences for the terminal or markup for rich."""

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from tasks.base.plain_text import printable

__all__ = ["Terminal", "print_aside", "without_controls"]


class Terminal(Console):
    """A console without markup and emoji codes that prints a space for each control character in a text.

    Topics, messages and names on a Prefect server can hold any character. Tables clean their cells themselves, because a
    replaced character is wider than a control character; all other output passes through here.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "markup": False, "emoji": False, "highlight": False})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does, with cursor movements and colours, but with clean text."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(without_controls(segment.text), segment.style)


def print_aside(text: str) -> None:
    """Print text to standard error, separate from piped output."""
    print(without_controls(text), file=sys.stderr, flush=True)  # noqa: T201 - a command's error


def without_controls(text: str) -> str:
    r"""Return text of one or more lines with a space for each control character.

    >>> without_controls("a\x1b[2J\nb")
    'a [2J\nb'
    """
    return "\n".join(map(printable, text.split("\n")))
