"""Topics in Redis, one stream each: appends, what they keep, and how far their groups have come."""

from tasks.reservoir.reservoir import Reservoir

__all__ = ["Reservoir"]
