#!/usr/bin/env bash
# streamz: `delay` delays no element that comes after a pause, and lets a steady stream fall ever further behind
#
# Versions   streamz 0.6.6, tornado 6.6.1
# Expected   `source.delay(0.5)` passes each element half a second after it came.
#            The docstring of `delay` (API page): "Add a time delay to results".
# Happens    The pause follows an element instead of preceding it, and begins before the wait for it: so it is a smallest distance
#            between two elements, as `rate_limit` has it. An element that comes 0.5 s or more after the last one passes at once,
#            the first one always. Of a stream with an element each 0.1 s, each waits 0.4 s longer than the one before, in a queue
#            without a bound.
# Matters    Who delays a stream to join it with a slower one gets elements undelayed at low rates, and at high rates a queue that
#            grows until memory ends.
# Known      No report found in the project's issues (November 2026).
# Seen       streamz 0.6.6, tornado 6.6.1
#            an element each 1.0 s through delay(0.5), seconds until it came: [0.0, 0.0, 0.0]
#            an element each 0.1 s through delay(0.5), seconds until it came: [0.0, 0.4, 0.8, 1.2, 1.6]
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check streamz==0.6.6 tornado==6.6.1

"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import time
from importlib.metadata import version

from streamz import Stream

INTERVAL = 0.5


async def waits(pause, count):
    """Emit `count` elements, one each `pause` seconds; return how long each took through `delay`."""
    source, found = Stream(asynchronous=True), []
    sink = source.delay(INTERVAL).sink(lambda came: found.append(time.monotonic() - came))
    for _ in range(count):
        await source.emit(time.monotonic())
        await asyncio.sleep(pause)
    while len(found) < count:
        await asyncio.sleep(0.01)
    sink.destroy()
    return [round(seconds, 1) for seconds in found]


print(f"streamz {version('streamz')}, tornado {version('tornado')}")
rare, steady = asyncio.run(waits(1.0, 3)), asyncio.run(waits(0.1, 5))
print(f"an element each 1.0 s through delay({INTERVAL}), seconds until it came: {rare}")
print(f"an element each 0.1 s through delay({INTERVAL}), seconds until it came: {steady}")
assert max(rare) < INTERVAL / 2, "behaviour changed"
assert steady[0] < INTERVAL / 2 and steady == sorted(steady) and steady[-1] > 2 * INTERVAL, "behaviour changed"
PYTHON
