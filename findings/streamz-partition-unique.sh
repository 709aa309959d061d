#!/usr/bin/env bash
# streamz: `partition_unique` never releases the references of the elements that it has passed on
#
# Versions   streamz 0.6.6, tornado 6.6.1
# Expected   The callback of an element's `RefCounter` runs once no node holds the element any more, as it does behind `partition`.
#            Page "Core Streams" of the streamz documentation, "Reference Counting and Checkpointing": "When a node is no longer
#            holding the data, it will release it by decrementing the counter by one."
# Happens    `partition_unique` retains each element's reference. When it emits a group it collects the metadata into a list of lists,
#            while the method that releases references looks for dictionaries; it finds none and releases nothing.
#            The same list of lists goes down the stream, so no node behind it counts references either.
#            References of duplicates, which the node drops, stay retained as well.
# Matters    Sources that commit by reference counts (`from_kafka_batched`, or any acknowledgement of one's own)
#            never commit an element that went through this node: after a restart everything is read again.
# Known      The counting came with pull request 306 of the project, before this node did (issue 383).
#            No report of this fault found in the project's issues (November 2026).
# Seen       streamz 0.6.6, tornado 6.6.1
#            emitted: a, a, b, c, c, d
#            partition(2): groups [('a', 'a'), ('b', 'c'), ('c', 'd')]; released aabccd; counts [0, 0, 0, 0, 0, 0]
#            partition_unique(2): groups [('a', 'b'), ('c', 'd')]; released nothing; counts [1, 1, 1, 1, 1, 1]
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check streamz==0.6.6 tornado==6.6.1

"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
from importlib.metadata import version

from streamz import RefCounter, Stream
from tornado.ioloop import IOLoop


ELEMENTS = "aabccd"


async def references(node):
    source, groups, released, counters = Stream(asynchronous=True), [], [], []
    node(source).sink(groups.append)
    for element in ELEMENTS:
        counter = RefCounter(cb=lambda element=element: released.append(element), loop=IOLoop.current())
        counters.append(counter)
        await source.emit(element, metadata=[{"ref": counter}])
    await asyncio.sleep(0.2)  # callbacks run on the loop
    return groups, "".join(released), [counter.count for counter in counters]


print(f"streamz {version('streamz')}, tornado {version('tornado')}")
print("emitted:", ", ".join(ELEMENTS))
for name, node, seen in (
    ("partition", lambda source: source.partition(2), ([("a", "a"), ("b", "c"), ("c", "d")], "aabccd", [0] * 6)),
    ("partition_unique", lambda source: source.partition_unique(2), ([("a", "b"), ("c", "d")], "", [1] * 6)),
):
    outcome = asyncio.run(references(node))
    print(f"{name}(2): groups {outcome[0]}; released {outcome[1] or 'nothing'}; counts {outcome[2]}")
    assert outcome == seen, "behaviour changed"
PYTHON
