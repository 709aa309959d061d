#!/usr/bin/env bash
# streamz: between `scatter` and `gather`, `unique` and `filter` see Dask futures instead of elements, and `gather` then gathers nothing
#
# Versions   streamz 0.6.6, distributed 2026.8.0, dask 2026.8.0
# Expected   A Dask stream has the operators of a plain one: `scatter().unique().gather()` passes each element once.
#            streamz API page, `DaskStream`: "fully compliant with the streamz.core.Stream object but uses a Dask client for execution".
# Happens    Only some operators have a Dask version. The others are those of plain streams, and handle the futures themselves: two
#            futures of equal elements differ, so `unique` passes every duplicate, and a future is true, so `filter` with the truth of
#            an element passes all. They return a plain stream, whose `gather` does nothing, so that futures come out.
# Matters    A plain pipeline that is moved onto Dask by putting `scatter()` in front and `gather()` behind passes other elements, without
#            an error if what follows only counts, stores or prints them. `map` in the same place works.
# Known      No report found in the project's issues (November 2026).
# Seen       streamz 0.6.6, distributed 2026.8.0, dask 2026.8.0
#            plain: unique [0, 3], filter [3, 3], map [0, 3, 3]
#            between scatter and gather: unique 3 futures of [0, 3, 3], filter 3 futures of [0, 3, 3], map [0, 3, 3]
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    streamz==0.6.6 distributed==2026.8.0 dask==2026.8.0

cat > "$folder/probe.py" <<'PYTHON'
import asyncio
from importlib.metadata import version

from distributed import Client, Future, LocalCluster
from streamz import Stream

NUMBERS = [0, 3, 3]
STEPS = {
    "unique": lambda stream: stream.unique(),
    "filter": lambda stream: stream.filter(bool),
    "map": lambda stream: stream.map(int),
}


def plain(step):
    source = Stream()
    found = step(source).sink_to_list()
    for number in NUMBERS:
        source.emit(number)
    return str(found)


async def on_dask(step, client):
    source = Stream(asynchronous=True)
    found = step(source.scatter()).gather().sink_to_list()
    for number in NUMBERS:
        await source.emit(number)
    futures = [one for one in found if isinstance(one, Future)]
    return f"{len(futures)} futures of {await client.gather(futures)}" if futures else str(found)


async def main():
    print(", ".join(f"{name} {version(name)}" for name in ("streamz", "distributed", "dask")))
    alone = {name: plain(step) for name, step in STEPS.items()}
    async with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=":0", asynchronous=True) as cluster,
        Client(cluster, asynchronous=True) as client,
    ):
        by_dask = {name: await on_dask(step, client) for name, step in STEPS.items()}
    for where, seen in (("plain", alone), ("between scatter and gather", by_dask)):
        print(f"{where}: " + ", ".join(f"{name} {found}" for name, found in seen.items()))
    assert alone == {"unique": "[0, 3]", "filter": "[3, 3]", "map": "[0, 3, 3]"}, "behaviour changed"
    all_three = "3 futures of [0, 3, 3]"
    assert by_dask == {"unique": all_three, "filter": all_three, "map": "[0, 3, 3]"}, "behaviour changed"


if __name__ == "__main__":
    asyncio.run(main())
PYTHON
"$folder/venv/bin/python" "$folder/probe.py"
