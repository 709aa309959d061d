#!/usr/bin/env bash
# streamz: `slice` passes other elements than the list slice that its documentation compares it with, and drops backpressure
#
# Versions   streamz 0.6.6, tornado 6.6.1
# Expected   `source.slice(1, None, 2)` passes what `elements[1::2]` has, and `await source.emit(x)` ends when the sink has x
#            and raises what the sink raises, as with every other node that keeps nothing.
#            The docstring of `slice` (API page): "Get only some events in a stream by position. Works like list[] syntax."
# Happens    The step counts from the first element of the stream, not from `start`, so any start that is not a multiple of the step
#            selects other elements. `end=0` is taken for "no end". The result of the node behind is thrown away:
#            an awaited `emit` returns before an asynchronous sink has run, and no caller sees the sink's exception.
#            The example of the docstring, slice(2, 6, 2), is right because 2 is a multiple of 2.
# Matters    Sampling every n-th element from an offset takes the wrong ones without an error; behind a slice, a fast source
#            overruns a slow sink, and failed elements count as done.
# Known      No report found in the project's issues (November 2026); the code is the same on its main branch (30c1666).
# Seen       streamz 0.6.6, tornado 6.6.1
#            slice(2, 6, 2): [2, 4]; the list has [2, 4]
#            slice(1, None, 2): [2, 4, 6]; the list has [1, 3, 5, 7]
#            slice(1, 7, 3): [3, 6]; the list has [1, 4]
#            slice(None, 0): [0, 1, 2, 3, 4, 5, 6, 7]; the list has []
#            filter: emit returned after the sink: True; raised the sink's error: True
#            slice: emit returned after the sink: False; raised the sink's error: False
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check streamz==0.6.6 tornado==6.6.1

"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import logging
from importlib.metadata import version

from streamz import Stream

logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # it reports the sink's lost exception when the process ends
ELEMENTS = list(range(8))


def sliced(*positions):
    source, passed = Stream(), []
    source.slice(*positions).sink(passed.append)
    for element in ELEMENTS:
        source.emit(element)
    return passed


async def emit_waits_and_raises(node):
    done = []

    async def slow(element):
        await asyncio.sleep(0.05)
        done.append(element)
        raise ValueError("the sink failed")

    source = Stream(asynchronous=True)
    node(source).sink(slow)
    raised = False
    try:
        await source.emit("x")
    except ValueError:
        raised = True
    waited = done == ["x"]
    await asyncio.sleep(0.2)  # lets the sink end that nothing awaits
    return waited, raised


print(f"streamz {version('streamz')}, tornado {version('tornado')}")
for positions, seen in {
    (2, 6, 2): [2, 4],
    (1, None, 2): [2, 4, 6],
    (1, 7, 3): [3, 6],
    (None, 0): ELEMENTS,
}.items():
    passed = sliced(*positions)
    print(f"slice{positions}: {passed}; the list has {ELEMENTS[slice(*positions)]}")
    assert passed == seen, "behaviour changed"

nodes = {"filter": lambda source: source.filter(bool), "slice": lambda source: source.slice(0)}
for name, seen in {"filter": (True, True), "slice": (False, False)}.items():
    waited, raised = asyncio.run(emit_waits_and_raises(nodes[name]))
    print(f"{name}: emit returned after the sink: {waited}; raised the sink's error: {raised}")
    assert (waited, raised) == seen, "behaviour changed"
PYTHON
