"""Durations of windows as whole milliseconds, the unit of event times."""

from datetime import timedelta

from tasks.checks import seconds
from tasks.errors import SettingsError

__all__ = ["Duration", "milliseconds"]

Duration = str | float | timedelta


def milliseconds(duration: Duration, *, name: str, may_be_zero: bool = False) -> int:
    """Convert a duration to whole milliseconds, or refuse it.

    >>> milliseconds("1min", name="size"), milliseconds(0, name="lateness", may_be_zero=True)
    (60000, 0)

    raises    SettingsError: no duration, or one with a fraction of a millisecond
    """
    if may_be_zero and (duration in (0, "0", "0s", "0ms") or duration == timedelta(0)):
        return 0
    exact = 1000 * seconds(duration, name=name)
    if abs(exact - (rounded := round(exact))) > 1e-6 or not rounded:  # noqa: PLR2004 - what floats cannot represent
        msg = f"{name}: expected whole milliseconds, got {duration!r}"
        raise SettingsError(msg)
    return rounded
