"""Commands to copy from a message into a shell."""

import shlex

__all__ = ["sluice_command"]


def sluice_command(name: str, *arguments: str, options: str = "") -> str:
    """Return a command of `sluice`, quoted for a shell, with arguments that any topic can be.

    >>> sluice_command("dead", "two words", "movers", options="--replay")
    "sluice dead 'two words' movers --replay"
    >>> sluice_command("peek", "-x", options="--follow")
    'sluice peek --follow -- -x'
    """
    quoted = shlex.join(arguments)
    # Behind '--', which ends the options, so that an argument that starts with '-' is none.
    parts = [options, "--", quoted] if any(each.startswith("-") for each in arguments) else [quoted, options]
    return " ".join(filter(None, ["sluice", name, *parts]))
