"""One flow out of two sets of parameters: the decorated function's own, and its decorator's."""

import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from prefect import Flow, flow
from prefect.utilities.callables import parameter_docstrings

from flows.runtime.custom_parameters import lasting_parameters
from flows.runtime.run_log import tell_what_tasks_log
from flows.runtime.sentences import say_errors_in_one_sentence
from flows.runtime.stopping import leave_no_run_cancelling, outlast_the_worker
from tasks.errors import SettingsError

__all__ = ["Options", "flow_of", "takes_options"]

P = ParamSpec("P")
T = TypeVar("T")

# Prefect takes these out of a call before the flow sees them.
_RESERVED = {"return_state", "wait_for"}


def takes_options(decorator: Callable[P, T]) -> Callable[P, T]:
    """Have a decorator say in a sentence what it takes when it is written without that, as in a bare `@inlet`.

    raises    SettingsError: it does, where Python would raise a TypeError on its own signature
    """
    signature, name = inspect.signature(decorator), decorator.__name__
    needed = ", ".join(f'{p.name}="..."' for p in signature.parameters.values() if p.default is p.empty)
    others = ", ".join(p.name for p in signature.parameters.values() if p.default is not p.empty)

    @functools.wraps(decorator)
    def decorate(*given: P.args, **options: P.kwargs) -> T:
        try:
            signature.bind(*given, **options)
        except TypeError as error:
            is_bare = len(given) == 1 and not options and inspect.isroutine(given[0])
            what = f"written without options on {given[0].__name__!r}" if is_bare else error
            msg = f"@{name}: {what}; expected @{name}({needed}), and as you like {others}"
            raise SettingsError(msg) from error
        return decorator(*given, **options)

    return decorate


class Options:
    """A decorator's parameters: read off the keyword-only parameters of `declaration` and its docstring.

    given    what the decorator was called with: the parameters' defaults from then on
    """

    def __init__(self, declaration: Callable[..., Any], given: Mapping[str, Any]) -> None:
        signature = inspect.signature(declaration, eval_str=True)
        self.parameters = [
            p.replace(default=given[p.name]) for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY
        ]
        self.descriptions = parameter_docstrings(inspect.getdoc(declaration))


def flow_of(
    function: Callable[..., Any],
    *,
    kind: str,
    skip: int,
    options: Options,
    run: Callable[[dict[str, Any], dict[str, Any]], Any],
) -> Flow[..., Any]:
    """Return a flow named after `function`, whose parameters are the function's own and then the decorator's.

    skip     how many of the function's first parameters are not the flow's: an outlet's source
    run      what the flow does, given the own parameters and the decorator's
    raises   SettingsError: a clash of names, or parameters no form can show
    """
    where = f"{kind} {function.__name__!r} ({inspect.getsourcefile(function) or 'no file'})"
    own = _own_parameters(function, skip, where)
    names = [p.name for p in own]
    if clash := sorted(set(names) & ({p.name for p in options.parameters} | _RESERVED)):
        msg = f"{where}: parameters {clash} are @{kind}'s or Prefect's own; rename the function's"
        raise SettingsError(msg)

    def run_flow(**parameters: Any) -> Any:
        say_errors_in_one_sentence()
        outlast_the_worker()
        given = defaults | lasting_parameters(parameters)
        with tell_what_tasks_log():
            return run({name: given.pop(name) for name in names}, given)

    leave_no_run_cancelling()
    documentation = inspect.getdoc(function) or ""
    described = parameter_docstrings(documentation) | options.descriptions
    every = [*own, *options.parameters]
    defaults = {p.name: p.default for p in every if p.default is not p.empty}
    run_flow.__name__ = run_flow.__qualname__ = function.__name__
    run_flow.__module__ = function.__module__
    run_flow.__doc__ = _with_arguments(documentation, {p.name: described.get(p.name, "") for p in every})
    run_flow.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    run_flow.__annotations__ = {p.name: p.annotation for p in every}
    # Prefect looks through __wrapped__ for the file and the line it shows.
    run_flow.__wrapped__ = function  # type: ignore[attr-defined]
    return flow(
        name=function.__name__,
        description=_before_arguments(documentation),
        version=_version(function),
        persist_result=False,
    )(run_flow)


def _own_parameters(function: Callable[..., Any], skip: int, where: str) -> list[inspect.Parameter]:
    parameters = list(inspect.signature(function).parameters.values())
    if len(parameters) < skip:
        msg = f"{where}: expected the source stream as the first parameter, got none; write `def {function.__name__}(source: Stream)`"
        raise SettingsError(msg)
    own = []
    for p in parameters[skip:]:
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD, p.POSITIONAL_ONLY):
            msg = f"{where}: parameter {str(p)!r} cannot be shown in a form; give it a name and a type"
            raise SettingsError(msg)
        # One by one: a return type imported for type checkers only is no concern of a form's.
        annotation = p.annotation
        if isinstance(annotation, str):
            try:
                annotation = eval(annotation, inspect.unwrap(function).__globals__)  # noqa: S307 - the module's own text
            except NameError as error:
                msg = f"{where}: the type of parameter {p.name!r} ({annotation}) is not known at run time ({error}); import it"
                raise SettingsError(msg) from error
        own.append(p.replace(kind=p.KEYWORD_ONLY, annotation=annotation))
    return own


def _with_arguments(documentation: str, described: Mapping[str, str]) -> str:
    """Return the docstring with one `Args:` section of all parameters at its end.

    Prefect reads the descriptions its form shows from the last such section, and from that alone.
    """
    lines = [f"    {name}: {' '.join(text.split())}" for name, text in described.items() if text]
    return "\n".join([_before_arguments(documentation), "", "Args:", *lines])


def _before_arguments(documentation: str) -> str:
    return documentation.partition("\nArgs:\n")[0].strip()


def _version(function: Callable[..., Any]) -> str | None:
    """Return a hash of the file the function is in, so that an edited flow is another version of it."""
    path = inspect.getsourcefile(function)
    if path is None or not Path(path).is_file():
        return None
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]
