"""Exceptions that end a run; all others fail one entry.

A user's function may raise a BaseException that is no `Exception`: a Rust extension panics, a library calls `sys.exit()`.
Like any other error, it fails the entry at hand. Only exceptions with which a person or the system stops the run pass
through the nodes.
"""

__all__ = ["ends_run", "let_end_run"]

_ending: tuple[type[BaseException], ...] = (KeyboardInterrupt,)


def let_end_run(*types: type[BaseException]) -> None:
    """Let exceptions of these types, such as those of signal handlers, end a run whichever function raises them."""
    global _ending  # noqa: PLW0603 - signals are one per process, and so is this list
    _ending = tuple(dict.fromkeys([*_ending, *types]))


def ends_run(error: BaseException) -> bool:
    """Return whether an exception ends the run instead of failing one entry."""
    return isinstance(error, _ending)
