"""Limits on the size of a pipeline's state."""

from tasks.base import quantities
from tasks.errors import SettingsError

__all__ = ["DEFAULT_MAX_STATE", "state_bytes"]

DEFAULT_MAX_STATE = "64MB"


def state_bytes(size: str | int) -> int:
    """Return an upper bound of a state in bytes.

    >>> state_bytes("64MB")
    64000000

    raises    SettingsError: it is no size above zero
    """
    number = size if isinstance(size, int) else quantities.size(size)
    if isinstance(size, bool) or number is None or number < 1:
        msg = f"max_state: expected a size above zero, such as '64MB', got {size!r}"
        raise SettingsError(msg)
    return number
