"""Makes a flow whose parameters are the decorated function's own and its decorator's options."""

import hashlib
import inspect
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import Flow, flow
from prefect.utilities.callables import parameter_docstrings

from flows.runtime.custom_parameters import lasting_parameters
from flows.runtime.run_log import copy_tasks_log
from flows.runtime.run_names import named_after
from flows.runtime.sentences import log_errors_in_one_sentence
from flows.runtime.stopping import leave_no_run_cancelling, outlast_the_worker
from tasks.errors import SettingsError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["flow_of"]

# Prefect takes these out of a call before the flow sees them.
_RESERVED = {"return_state", "wait_for"}


def flow_of(
    function: Callable[..., Any],
    *,
    kind: str,
    skip: int = 0,
    hidden: Collection[str] = (),
    options: "DataclassInstance",
    run: Callable[[dict[str, Any], dict[str, Any]], Any],
) -> Flow[..., Any]:
    """Return a flow named after `function`, whose parameters are the function's own and then the fields of `options`.

    skip     number of the function's first parameters that are not the flow's: an outlet's source
    hidden   names of other parameters that are not the flow's, such as an inlet's cursor
    options  the decorator's, whose values are the defaults of the flow's parameters
    run      the flow's body, called with the function's own arguments and with the options of this run
    raises   SettingsError: a parameter name that the decorator or Prefect uses, or a parameter that no form can show
    """
    where = f"{kind} {function.__name__!r} ({inspect.getsourcefile(function) or 'no file'})"
    own = _own_parameters(function, skip, hidden, where)
    names = [p.name for p in own]
    declared = _option_parameters(options)
    if clash := sorted(set(names) & ({p.name for p in declared} | _RESERVED)):
        msg = f"{where}: parameters {clash} are @{kind}'s or Prefect's own; rename the function's"
        raise SettingsError(msg)

    def run_flow(**parameters: Any) -> Any:
        log_errors_in_one_sentence()
        outlast_the_worker()
        given = defaults | lasting_parameters(parameters)
        with copy_tasks_log():
            return run({name: given.pop(name) for name in names}, given)

    leave_no_run_cancelling()
    documentation = inspect.getdoc(function) or ""
    described = parameter_docstrings(documentation) | parameter_docstrings(inspect.getdoc(options))
    every = [*own, *declared]
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
        flow_run_name=named_after(function.__name__, is_outlet=kind == "outlet"),
        description=_before_arguments(documentation),
        version=_version(function),
        persist_result=False,
    )(run_flow)


def _option_parameters(options: "DataclassInstance") -> list[inspect.Parameter]:
    signature = inspect.signature(type(options), eval_str=True)
    return [p.replace(default=getattr(options, p.name)) for p in signature.parameters.values()]


def _own_parameters(
    function: Callable[..., Any], skip: int, hidden: Collection[str], where: str
) -> list[inspect.Parameter]:
    parameters = list(inspect.signature(function).parameters.values())
    if len(parameters) < skip:
        msg = f"{where}: expected the source stream as the first parameter, got none; write `def {function.__name__}(source: Stream)`"
        raise SettingsError(msg)
    own = []
    for p in parameters[skip:]:
        if p.name in hidden:
            continue
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD, p.POSITIONAL_ONLY):
            msg = f"{where}: parameter {str(p)!r} cannot be shown in a form; give it a name and a type"
            raise SettingsError(msg)
        # One by one, because a return type may be imported for type checkers only, and the form does not need it.
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

    Prefect reads the descriptions for its form from the last such section only.
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
