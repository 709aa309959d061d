"""Keeping the garbage collector from what a run has loaded, and needs to its end."""

import gc

from flows.runtime.stopping import is_in_a_process_of_its_own

__all__ = ["spare_what_is_loaded"]


def spare_what_is_loaded() -> None:
    """Have the collector look at nothing any more that is there by now.

    With Prefect and pandas it is some 170,000 objects: a look at all of them stops the stream for 90 ms, once every few
    seconds where lists of entries or DataFrames come and go. Only in a process that ends with the run.
    """
    if is_in_a_process_of_its_own():
        gc.collect()
        gc.freeze()
