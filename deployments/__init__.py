"""Where it runs: one machine with everything on it, and the `sluice` command."""

__all__: list[str] = []
