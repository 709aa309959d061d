"""What Dask workers run: calls whose inputs and outcomes are bytes, so that Dask carries nothing else.

A failed call is an outcome, not a failed Dask task: it passes through the calls behind it to the node that looks at it.
"""

import functools
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import cloudpickle

from tasks.remote import calls

__all__ = [
    "Failed",
    "Leaf",
    "filled",
    "item_of",
    "key_of",
    "length_of",
    "list_of",
    "pick",
    "run",
    "star",
    "step",
    "truth_of",
]


class Failed(NamedTuple):
    """The outcome of a call that failed: as `tasks.remote.calls` has it, and the number of the node that made the call."""

    outcome: bytes
    node: int


class Leaf(NamedTuple):
    """Stands in an element for the result of another call: its place among the results."""

    place: int


def run(call: bytes, node: int, element: bytes, *inputs: bytes | Failed) -> bytes | Failed:
    """Call a pickled function on an element; return the outcome, or that of the first input that has failed.

    element   pickled, with a `Leaf` for each input
    """
    for each in inputs:
        if isinstance(each, Failed):
            return each
    try:
        function = _loaded(call)
    except BaseException as error:  # noqa: BLE001 - whatever an import raises
        return Failed(calls.unloadable(error), node)
    outcome = calls.outcome_of(function, element, functools.partial(filled, inputs=inputs) if inputs else None)
    return outcome if outcome[:1] == calls.OK else Failed(outcome, node)


def filled(element: Any, inputs: tuple[bytes | Failed, ...]) -> Any:
    """Return an element with the results in place of its leaves."""
    kind = type(element)
    if kind is Leaf:
        return calls.result_of(inputs[element.place])  # type: ignore[arg-type] - none has failed
    return kind(filled(each, inputs) for each in element) if kind in (tuple, list) else element


@functools.lru_cache(maxsize=64)
def _loaded(call: bytes) -> calls.Call:
    """Unpickle a function, once for all calls of it."""
    return pickle.loads(call)  # noqa: S301 - from the run, by way of Dask


# --- the functions of nodes ---


def star(x: Any, func: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
    """Call a function with the items of an element."""
    return func(*x, **kwargs)


def pick(x: Any, what: Any) -> Any:
    """Return one item of an element, or a tuple of several."""
    return tuple([x[one] for one in what]) if isinstance(what, list) else x[what]


def truth_of(x: Any, predicate: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether a predicate is true of an element."""
    return bool(predicate(x, *args, **kwargs))


def key_of(x: Any, key: Any) -> Any:
    """Return the key of an element: what a function returns, or an item."""
    return key(x) if callable(key) else x[key]


def list_of(x: Any) -> list[bytes]:
    """Return the items of an element, each pickled."""
    return [calls.OK + cloudpickle.dumps(item) for item in x]


def length_of(x: list[bytes]) -> int:
    """Return how many items `list_of` has found."""
    return len(x)


def item_of(x: list[bytes], place: int) -> Any:
    """Return one of the items that `list_of` has found."""
    return calls.result_of(x[place])


def step(x: tuple[Any, Any], func: Callable[..., Any], kwargs: dict[str, Any], *, returns_state: bool) -> list[bytes]:
    """Return the next state of an accumulator and its result, each as the outcome of a call.

    x    the state and an element
    """
    result = func(*x, **kwargs)
    state, result = result if returns_state else (result, result)
    outcomes = [calls.OK + cloudpickle.dumps(state)]
    return [*outcomes, calls.OK + cloudpickle.dumps(result)] if returns_state else outcomes
