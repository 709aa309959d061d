"""Outlets as real processes that are killed under load."""
