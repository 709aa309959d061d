"""Calls functions at the ticks of a grid, and pushes what they return to a topic, each tick once."""
