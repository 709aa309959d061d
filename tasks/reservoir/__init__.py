"""Topics in Redis, one stream each: appends, retention, and the lag of their groups."""

from tasks.reservoir.reservoir import Reservoir

__all__ = ["Reservoir"]
