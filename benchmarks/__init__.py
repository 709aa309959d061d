"""How fast it is, beside others that do the same work on the same Redis in the same run: `make bench`."""
