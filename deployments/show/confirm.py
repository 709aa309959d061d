"""Questions that must be answered with yes before something is changed for good."""

import typer

from tasks.errors import SettingsError

__all__ = ["confirm"]


def confirm(question: str) -> None:
    """Ask a question on standard error, and return if the answer is yes.

    raises    SettingsError: the answer is no, or there is none
    """
    try:
        is_yes = typer.confirm(question, err=True)
    except typer.Abort:  # Ctrl-C, or standard input has ended
        is_yes = False
    if not is_yes:
        msg = "expected a yes, got none; nothing was changed (--yes answers beforehand)"
        raise SettingsError(msg)
