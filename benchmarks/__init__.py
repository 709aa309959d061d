"""Benchmarks: Sluice and comparable programs do the same work on the same Redis, in one run of `make bench`."""
