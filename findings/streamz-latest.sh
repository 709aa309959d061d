#!/usr/bin/env bash
# streamz: `latest` never delivers the last element that arrives while the node behind it is busy
#
# Versions   streamz 0.6.6, tornado 6.6.1
# Expected   Once the slow node is free, it gets the newest element.
#            The docstring of `latest`: "Drop held-up data and emit the latest result [...] Use this when you only care about
#            the latest elements, and are willing to lose older data". Nothing there allows the latest one to be lost.
# Happens    `latest` wakes its loop with `Condition.notify`, which reaches only a loop that is waiting at that moment.
#            The loop is not waiting while it awaits the node behind it, so the wake-up is lost and the element stays in the node.
#            The next element replaces it; if none comes, it is never delivered.
# Matters    A pipeline that shows the current value (`source.latest().sink(slow)`) stays at an old value
#            for as long as the source is quiet, and loses the final value of a source that ends.
# Known      No report found in the project's issues (November 2026); the code is the same on its main branch (30c1666).
# Seen       streamz 0.6.6, tornado 6.6.1
#            emitted 0, 1, 2, 3; 1 to 3 arrived while the sink was busy with 0
#            delivered when the sink was free again: [0]
#            delivered after one more element (4): [0, 4]
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check streamz==0.6.6 tornado==6.6.1

"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
from importlib.metadata import version

from streamz import Stream


async def let_callbacks_run():
    await asyncio.sleep(0.5)  # far longer than the few turns of the event loop that a wake-up takes


async def main():
    delivered, started, free = [], asyncio.Event(), asyncio.Event()

    async def slow(element):
        delivered.append(element)
        started.set()
        await free.wait()

    source = Stream(asynchronous=True)
    source.latest().sink(slow)
    await let_callbacks_run()  # the loop of `latest` waits for its first element
    await source.emit(0)
    await asyncio.wait_for(started.wait(), 10)
    for element in (1, 2, 3):
        await source.emit(element)
    await let_callbacks_run()
    print("emitted 0, 1, 2, 3; 1 to 3 arrived while the sink was busy with 0")

    free.set()
    await let_callbacks_run()
    print("delivered when the sink was free again:", delivered)
    assert delivered == [0], "behaviour changed: the last element is delivered"

    await source.emit(4)
    await let_callbacks_run()
    print("delivered after one more element (4):", delivered)
    assert delivered == [0, 4], "behaviour changed"


print(f"streamz {version('streamz')}, tornado {version('tornado')}")
asyncio.run(main())
PYTHON
