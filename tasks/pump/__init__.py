"""Periodic functions: the tick grid, who owns a tick, and a run that calls, pushes and counts."""
