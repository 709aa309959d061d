"""The code of a fused run: one function that calls the run's nodes one after the other, generated for these nodes.

It is generated like the methods of dataclasses, so that no element pays for a look at the type of each node. For `map -> sink` it is

    def run(x, metadata, weight):
        outer_at, waiting = guards.at, ()
        ...
        try:
            while True:  # left by `break`
                guards.at = meter_0
                meter_0.received += 1
                x = node_0.func(x)
                ...
                node_0.current_value = x
                guards.at = meter_1
                meter_1.received += 1
                result = node_1.func(x)
                ...
                break
        except BaseException as error:
            ...
        guards.at = outer_at
        return waiting
"""

from collections.abc import Callable
from textwrap import indent
from time import perf_counter
from typing import Any

from streamz import Stream
from streamz import core as nodes
from streamz.sinks import sink

from tasks.base.fatal import ends_run
from tasks.pipeline.awaiting import PLAIN, is_plain
from tasks.pipeline.fusible import NOTHING, can_continue
from tasks.pipeline.receipts import in_full

__all__ = ["Run", "compiled"]

Run = Callable[[Any, Any, int], Any]
"""Takes an element, its metadata or `LazyReceipts`, and a weight: how often to count the measured seconds; 0 measures none.

Returns awaitables: a list, or an empty tuple."""

_HEAD = """\
def run(x, metadata, weight):
    outer_at, waiting = guards.at, ()
    if weight:
        outer, guards.nested = guards.nested, 0.0
        began = then = perf_counter()
    try:
        while True:
"""
_TAIL = """\
    except BaseException as error:
        if ends_run(error):
            raise
        guards.fail(guards.at.node, in_full(metadata), error)
        waiting = ()
    meter, guards.at = guards.at, outer_at
    if weight:
        now = perf_counter()
        meter.seconds += weight * (now - then - guards.nested)
        guards.nested = outer + now - began
    return guards.hold(meter.node, waiting, in_full(metadata)) if waiting else waiting
"""
_BEGIN = """\
guards.at = meter_{n}
meter_{n}.received += 1
"""
_NEXT = """\
if fusion.version != version:
    waiting = node_{n}._emit(x, metadata=in_full(metadata))
    break
node_{n}.current_value = x
if weight:
    now = perf_counter()
    meter_{n}.seconds += weight * (now - then)
    then = now
"""
_EMIT = """\
waiting = emit(x, metadata, weight)
break
"""
_RESULT = """\
x = {call}
if type(x) not in plain and not is_plain(x):
    waiting = settled(node_{n}, x, None, metadata)
    break
"""
_VERDICT = """\
result = {call}
if result is not True:
    if type(result) not in plain and not is_plain(result):
        waiting = settled(node_{n}, result, x, metadata)
        break
    if not result:
        break
"""
_WORK = """\
x = node_{n}.work(x, metadata)
if x is NOTHING:
    break
"""
_SINK = """\
result = {call}
if result is not None and type(result) not in plain and not is_plain(result):
    waiting = settled(node_{n}, result, x, metadata)
break
"""
_END = """\
waiting = update(node_{n}, x, upstream, metadata)
break
"""
_CALLS: dict[type[Stream], tuple[str, str]] = {
    nodes.map: (_RESULT, "node_{n}.func(x{more})"),
    nodes.starmap: (_RESULT, "node_{n}.func(*x{more})"),
    nodes.pluck: (_RESULT, "x[node_{n}.pick]"),
    nodes.filter: (_VERDICT, "node_{n}.predicate(x{more})"),
    sink: (_SINK, "node_{n}.func(x{more})"),
}


def compiled(run: list[Any], guards: Any, fusion: Any, *, emit: Run, settled: Callable[..., list[Any]]) -> Run:
    """Return the function that calls all nodes of a run.

    emit     emits an element from the last node
    settled  has a node settle a result that must be awaited or iterated
    """
    scope: dict[str, Any] = {
        "NOTHING": NOTHING, "emit": emit, "ends_run": ends_run, "fusion": fusion, "guards": guards, "in_full": in_full,
        "is_plain": is_plain, "perf_counter": perf_counter, "plain": PLAIN, "settled": settled, "version": fusion.version,
    }  # fmt: skip
    body = ""
    for n, node in enumerate(run):
        scope |= {f"node_{n}": node, f"meter_{n}": node.meter}
        body += _BEGIN.format(n=n) + _code(node, n)
        if can_continue(node):
            body += (_EMIT if node is run[-1] else _NEXT).format(n=n)
        elif type(node) is not sink:
            scope |= {"update": type(node).update, "upstream": node.upstreams[0]}
    exec(_HEAD + indent(body, 12 * " ") + _TAIL, scope)  # noqa: S102 - a text without any part from outside this module
    return scope["run"]


def _code(node: Any, n: int) -> str:
    """Return the code for what a node does with an element."""
    if type(node) not in _CALLS:
        return (_WORK if can_continue(node) else _END).format(n=n)
    code, call = _CALLS[type(node)]
    if isinstance(getattr(node, "pick", None), list):
        call = "tuple([x[one] for one in node_{n}.pick])"
    # A plain call takes a third of the time of one that unpacks empty arguments.
    has_more = getattr(node, "args", ()) or getattr(node, "kwargs", {})
    call = call.format(n=n, more=f", *node_{n}.args, **node_{n}.kwargs" if has_more else "")
    return code.format(n=n, call=call)
