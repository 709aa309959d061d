"""Data of the shipped flows: a simulated exchange, live quotes, this host's counters."""
