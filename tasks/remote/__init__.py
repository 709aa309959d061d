"""Calls of functions in other processes: a pool of worker processes, and Dask workers."""
