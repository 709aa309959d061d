"""Run the benchmarks, print the figures, and write them into the README and docs/performance.md.

    python -m benchmarks [--quick] [--only throughput ...]

Candidates take turns (A B C A B C ...), each in a process of its own, on a Redis that is started for the benchmark. The
figures are medians of the rounds, and ratios of medians of the same run.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.report import between_markers, machine, table
from benchmarks.sections import ROOT, SECTIONS
from benchmarks.sizes import QUICK, Sizes
from deployments.servers.redis_binary import find_redis_server
from deployments.servers.redis_server import RedisServer


def main() -> None:
    """Run the chosen sections; write the files only after a full run of all sections."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything, in two minutes; writes no files")
    parser.add_argument(
        "--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="only these; writes no files"
    )
    options = parser.parse_args()
    writes = not options.quick and len(options.only) == len(SECTIONS)
    sizes = replace(QUICK if options.quick else Sizes(), writes=writes)
    began = time.monotonic()
    parts = []
    with tempfile.TemporaryDirectory() as folder, RedisServer(Path(folder)) as server:
        where = machine(str(find_redis_server()))
        print(where, flush=True)
        for name in options.only:
            print(f"{name} ...", flush=True)
            measure, heads = SECTIONS[name]
            parts.append(table(measure(server.url, sizes), heads))
            print(f"\n{parts[-1]}\n", flush=True)
    print(f"{time.monotonic() - began:.0f} s")
    if writes:
        text = "\n\n".join(parts)
        between_markers(ROOT / "docs" / "performance.md", f"\nMeasured on {where}.\n\n{text}\n")
        between_markers(ROOT / "README.md", f"\n{parts[0]}\n\nMeasured on {where}.\n")


if __name__ == "__main__":
    main()
