"""Processes of flow runs: forked from a template that has imported everything, or started anew."""

__all__: list[str] = []
