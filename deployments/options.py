"""Options that several commands of `sluice` have, and the console that they print to."""

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["AsJson", "Timeout", "Yes", "console"]

_PIPED_WIDTH = 160  # columns, if no terminal reports a width


def _duration(text: str) -> float:
    from tasks.checks import seconds  # noqa: PLC0415
    from tasks.errors import SettingsError  # noqa: PLC0415

    try:
        return seconds(text, name="timeout", least=1)
    except SettingsError as error:
        raise typer.BadParameter(str(error)) from error


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one line each, for scripts.")]
Timeout = Annotated[float, typer.Option(help="How long to wait for runs to end.", parser=_duration, metavar="DURATION")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask first.")]


def console() -> "Console":
    """Return the console on standard output."""
    from deployments.show.terminal import Terminal  # noqa: PLC0415

    has_width = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Terminal(width=None if has_width else _PIPED_WIDTH)
