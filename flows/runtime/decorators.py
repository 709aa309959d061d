"""Decorators whose options are the fields of a dataclass."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from tasks.errors import SettingsError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["decorator_of", "overridden"]

P = ParamSpec("P")
OptionsT = TypeVar("OptionsT", bound="DataclassInstance")
T = TypeVar("T")

Function = Callable[..., Any]


def decorator_of(
    options: Callable[P, OptionsT],
) -> Callable[[Callable[[Function, OptionsT], T]], Callable[P, Callable[[Function], T]]]:
    """Turn `make(function, options)` into a decorator that takes the fields of `options`, a dataclass, as keywords.

    The dataclass checks them: once, when the decorator is written. The decorator's docstring gets the dataclass's `Args:`.

    raises    SettingsError: missing or unknown options, as in a bare `@inlet`, where Python would raise a TypeError
    """
    signature = inspect.signature(options)
    needed = ", ".join(f'{p.name}="..."' for p in signature.parameters.values() if p.default is p.empty)
    others = ", ".join(p.name for p in signature.parameters.values() if p.default is not p.empty)

    def decorator_from(make: Callable[[Function, OptionsT], T]) -> Callable[P, Callable[[Function], T]]:
        name = make.__name__

        def decorator(*given: P.args, **named: P.kwargs) -> Callable[[Function], T]:
            try:
                signature.bind(*given, **named)
            except TypeError as error:
                is_bare = len(given) == 1 and not named and inspect.isroutine(given[0])
                what = f"written without options on {given[0].__name__!r}" if is_bare else error
                msg = f"@{name}: {what}; expected @{name}({needed}), and optionally {others}"
                raise SettingsError(msg) from error
            checked = options(*given, **named)
            return lambda function: make(function, checked)

        arguments = (inspect.getdoc(options) or "").partition("\nArgs:\n")[2]
        decorator.__name__ = decorator.__qualname__ = name
        decorator.__module__ = make.__module__
        decorator.__doc__ = f"{inspect.getdoc(make)}\n\nArgs:\n{arguments}"
        decorator.__signature__ = signature.replace(return_annotation=inspect.Signature.empty)  # type: ignore[attr-defined]
        return decorator

    return decorator_from


def overridden(options: OptionsT, given: Mapping[str, Any]) -> OptionsT:
    """Return `options` with the values of a run. Checks them only if one differs from what the decorator checked.

    raises    SettingsError
    """
    changed = {name: value for name, value in given.items() if value != getattr(options, name)}
    return replace(options, **changed) if changed else options
