"""Which exceptions end a run, and which are the failure of one entry.

A user's function may raise what is no `Exception`: a Rust extension panics, a library calls `sys.exit()`. That is the
failure of the entry it was called with, as any other error is. Only what a person or the system raises to stop the run
goes past the nodes.
"""

__all__ = ["ends_run", "let_end_run"]

_ending: tuple[type[BaseException], ...] = (KeyboardInterrupt,)


def let_end_run(*types: type[BaseException]) -> None:
    """Have exceptions of these types end a run, in whatever function they are raised; those of signals, say."""
    global _ending  # noqa: PLW0603 - one list for the process, as signals are
    _ending = tuple(dict.fromkeys([*_ending, *types]))


def ends_run(error: BaseException) -> bool:
    """Return whether an exception ends the run rather than failing the entry at hand."""
    return isinstance(error, _ending)
