"""Keeps the garbage collector from scanning the objects that a run has loaded and needs to its end."""

import gc

from flows.runtime.stopping import is_in_a_process_of_its_own

__all__ = ["freeze_loaded_objects"]


def freeze_loaded_objects() -> None:
    """Freeze all objects loaded so far, so that later collections skip them; only in a process that ends with the run.

    Prefect and pandas load some 170,000 objects. Scanning them stops the stream for 90 ms, every few seconds in pipelines that
    allocate lists of entries or DataFrames.
    """
    if is_in_a_process_of_its_own():
        gc.collect()
        gc.freeze()
