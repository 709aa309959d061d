"""Which limits each topic's inlets have declared in this process."""

from tasks.errors import SettingsError
from tasks.reservoir.keep import Keep

__all__ = ["declare_keep", "declared_keep"]

_declared: dict[str, dict[str, Keep]] = {}  # by topic and inlet


def declare_keep(topic: str, inlet: str, keep: Keep) -> None:
    """Register an inlet's limits for its topic.

    raises    SettingsError: another inlet imported so far has declared different ones
    """
    inlets = _declared.setdefault(topic, {})
    for other, kept in inlets.items():
        if other != inlet and kept != keep:
            msg = (
                f"topic {topic!r}: expected keep and when_full to be the same in all its inlets, got {str(keep)!r} from {inlet!r} "
                f"and {str(kept)!r} from {other!r}; make them agree"
            )
            raise SettingsError(msg)
    inlets[inlet] = keep


def declared_keep(topic: str) -> Keep | None:
    """Return the limits that the inlets imported so far declare for a topic; None if none of them pushes to it."""
    return next(iter(_declared.get(topic, {}).values()), None)
