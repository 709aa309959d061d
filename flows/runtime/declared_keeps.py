"""Which limits the inlets and outlets imported so far have declared for each topic."""

from tasks.errors import SettingsError
from tasks.reservoir.keep import Keep

__all__ = ["declare_keep", "declared_keep"]

_declared: dict[str, dict[str, Keep]] = {}  # by topic and writer


def declare_keep(topic: str, writer: str, keep: Keep) -> None:
    """Register a writer's limits for a topic.

    writer    the inlet, or the outlet whose results go there, such as "inlet 'quotes'"
    raises    SettingsError: another writer imported so far has declared different ones
    """
    writers = _declared.setdefault(topic, {})
    for other, kept in writers.items():
        if other != writer and kept != keep:
            msg = (
                f"topic {topic!r}: expected keep and when_full to be the same in all its inlets, and in the outlets whose results go "
                f"there (into_keep, into_when_full), got {str(keep)!r} from {writer} and {str(kept)!r} from {other}; make them agree"
            )
            raise SettingsError(msg)
    writers[writer] = keep


def declared_keep(topic: str) -> Keep | None:
    """Return the limits that the inlets and outlets imported so far declare for a topic; None if none of them pushes to it."""
    return next(iter(_declared.get(topic, {}).values()), None)
