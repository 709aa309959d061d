"""Output of the `sluice` command: tables, JSON and text in a terminal."""
