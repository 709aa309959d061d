"""When a failed call of a node is repeated: the options of `retry`, checked and parsed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from inspect import signature
from typing import Any

from streamz import Stream, sinks
from streamz import core as nodes

from tasks.checks import durations
from tasks.errors import PipelineError, RejectedError, SettingsError

__all__ = ["Covers", "Pauses", "Retry", "has_options", "retry_of", "take_options"]

Pauses = str | Sequence[str | float | timedelta]
"""The pauses between attempts, such as '1s, 5s, 30s'."""

Covers = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]
"""The exceptions that are worth another attempt: types, or a predicate."""

RETRYING: tuple[type[Stream], ...] = (nodes.map, nodes.starmap, nodes.map_async, sinks.sink)
"""streamz' nodes that take the options below among the keyword arguments of their function."""

_OPTIONS = ("retry", "hold", "overtake", "retry_on")


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a failed call is repeated, and after which pauses.

    pauses    seconds before the second attempt, the third, and so on
    hold      repeat the last pause for as long as the call fails, instead of giving up
    overtake  let later elements pass while one is tried again
    covers    returns whether an exception is worth another attempt; by default all are, except refusals: RejectedError and
              PipelineError
    """

    pauses: tuple[float, ...]
    hold: bool = False
    overtake: bool = False
    covers: Callable[[Exception], bool] = field(
        default=lambda error: not isinstance(error, RejectedError | PipelineError)
    )

    @classmethod
    def of(
        cls, retry: Pauses | None, *, hold: bool = False, overtake: bool = False, retry_on: Covers | None = None
    ) -> "Retry | None":
        """Return the parsed options; None without `retry`.

        raises    SettingsError: not durations, or another option without `retry`
        """
        if retry is None or retry == "":
            if hold or overtake or retry_on is not None:
                msg = "hold, overtake, retry_on: expected `retry` with it, such as retry='1s, 5s, 30s', got none"
                raise SettingsError(msg)
            return None
        for name, value in (("hold", hold), ("overtake", overtake)):
            if not isinstance(value, bool):
                msg = f"{name}: expected True or False, got {value!r}"
                raise SettingsError(msg)
        pauses = durations(retry, name="retry")
        return cls(pauses, hold, overtake) if retry_on is None else cls(pauses, hold, overtake, _covering(retry_on))

    @property
    def attempts(self) -> int | None:
        """The number of attempts; None if there is no limit."""
        return None if self.hold else len(self.pauses) + 1

    def pause(self, failed: int) -> float | None:
        """Return the seconds to pause after this many failed attempts; None: give up.

        >>> [Retry((1.0, 5.0)).pause(n) for n in (1, 2, 3)], Retry((1.0, 5.0), hold=True).pause(9)
        ([1.0, 5.0, None], 5.0)
        """
        if failed <= len(self.pauses):
            return self.pauses[max(failed, 1) - 1]
        return self.pauses[-1] if self.hold else None


def _covering(retry_on: Covers) -> Callable[[Exception], bool]:
    types = retry_on if isinstance(retry_on, tuple) else (retry_on,)
    if all(isinstance(one, type) and issubclass(one, Exception) for one in types):
        return lambda error: isinstance(error, types)  # type: ignore[arg-type] - types only, by the line above
    if isinstance(retry_on, tuple | type) or not callable(retry_on):
        msg = f"retry_on: expected types of exceptions, or a function of an exception, got {retry_on!r}"
        raise SettingsError(msg)
    return retry_on


def retry_of(node: Any, default: Retry | None) -> Retry | None:
    """Return the retry of a node of streamz: its own, or else the default of its graph.

    raises    SettingsError: an invalid option
    """
    if type(node) not in RETRYING:
        return None
    options = _own_options(node)
    is_own = "retry" in options
    own = Retry.of(options.pop("retry"), **options) if is_own else None
    retry = own if is_own else default
    if own is not None and own.overtake and type(node) is nodes.map_async:
        msg = f"{node!r}: expected map_async without `overtake`, as it emits results in order, got it; use map"
        raise SettingsError(msg)
    return retry


def has_options(node: Any) -> bool:
    """Return whether a node has `retry` among the arguments of its function, which has no such parameter of its own."""
    return bool(_own_options(node))


def take_options(node: Any) -> None:
    """Remove the options of `retry` from the arguments of a node's function."""
    if type(node) in RETRYING:
        for name in _own_options(node):
            del node.kwargs[name]


def _own_options(node: Any) -> dict[str, Any]:
    """Return the options of `retry` among the keyword arguments of a node, unless they are its function's own."""
    given = {name: node.kwargs[name] for name in _OPTIONS if name in node.kwargs}
    return {} if not given or "retry" not in given or "retry" in _named_parameters(node.func) else given


def _named_parameters(function: Any) -> frozenset[str]:
    try:
        return frozenset(signature(function).parameters)
    except (TypeError, ValueError):  # a function in C without a signature
        return frozenset()
