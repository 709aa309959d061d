"""Which limits of calls the inlets imported so far have declared under each name."""

from tasks.errors import SettingsError
from tasks.pump.call_limit import CallLimit

__all__ = ["declare_limit"]

_declared: dict[str, dict[str, CallLimit]] = {}  # by name and inlet


def declare_limit(inlet: str, limit: CallLimit) -> None:
    """Register an inlet's limit; raises SettingsError if another inlet imported so far has declared a different one."""
    inlets = _declared.setdefault(limit.name, {})
    for other, declared in inlets.items():
        if other != inlet and declared != limit:
            msg = f"limit_name {limit.name!r}: expected the same limit in all its inlets, got {limit} from {inlet!r} and {declared} from {other!r}; make them agree"
            raise SettingsError(msg)
    inlets[inlet] = limit
