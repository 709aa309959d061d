"""The sections of the benchmark: each measures, and returns the rows of its table."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import fleet, heavy
from benchmarks.children import Child, call
from benchmarks.kept_state import KEPT_STATE, fill_keys
from benchmarks.partitions import PARTITIONS, SPLIT
from benchmarks.report import Row, plot
from benchmarks.sizes import Sizes, in_turn
from benchmarks.states import STATES
from benchmarks.throughput import CANDIDATES, SHORT
from benchmarks.windows import CANDIDATES as WINDOWED
from benchmarks.work import TOPIC, connected, fill

__all__ = ["ROOT", "SECTIONS"]

ROOT = Path(__file__).parents[1]
OURS = "Sluice"
_MINUTES = 1_800.0  # seconds, for the longest measurement


def throughput(url: str, sizes: Sizes) -> list[Row]:
    """Compare the candidates on the same entries."""
    fill(connected(url), sizes.entries)
    fill(connected(url), sizes.slow_entries, SHORT)
    call("throughput:fill_own_format", url=url, count=sizes.slow_entries)

    def rate(name: str, turn: int) -> float:
        count = sizes.slow_entries if name.startswith("FastStream") else sizes.entries
        return count / call("throughput:measure", name=name, url=url, group=f"{turn}", count=count)

    rates = in_turn(list(CANDIDATES), sizes.rounds, rate)
    connected(url).flushall()
    return [
        (name, f"{rates[name]:,.0f}/s", f"{rates[OURS] / rates[name]:.2f} x" if name != OURS else "")
        for name in sorted(rates, key=rates.__getitem__, reverse=True)
    ]


def frame(url: str, sizes: Sizes) -> list[Row]:
    """Measure each step of one frame's way."""
    got = call("frames:measure", url=url, topic=TOPIC, repeats=sizes.frames)
    parts = ("encode", "push", "read", "check and decode")
    total = sum(got[part] for part in parts)
    codec = got["encode"] + got["check and decode"]
    sum_of_parts = " + ".join(f"{got[part]:.1f}" for part in parts)
    return [
        (
            "encode + push + read + check and decode, one by one",
            f"{sum_of_parts} = {total:.1f} ms",
            f"check alone {got['check']:.1f} ms",
        ),
        (
            "from before the push until it is in the sink",
            f"{got['whole']:.1f} ms",
            f"{got['whole'] / total:.2f} x the sum",
        ),
        ("our codec alone", f"{codec:.1f} ms", f"{got['bytes'] / 2**20:.1f} MB"),
        ("JSON (pandas)", f"{got['JSON']:.1f} ms", f"{got['JSON'] / codec:.1f} x ours"),
        ("Parquet (pandas)", f"{got['Parquet']:.1f} ms", f"{got['Parquet'] / codec:.1f} x ours"),
    ]


def latency(url: str, sizes: Sizes) -> list[Row]:
    """Measure the latency at 1,000 entries per second."""
    got = call("latency:measure", url=url, rate=1000, seconds=sizes.latency_seconds)
    return [
        (
            "push to sink at 1,000 entries/s: p50, p99, worst",
            f"{got['p50']:.2f}, {got['p99']:.2f}, {got['worst']:.1f} ms",
            "",
        )
    ]


def memory(url: str, sizes: Sizes) -> list[Row]:
    """Measure the memory of outlets with a backlog."""
    rows: list[Row] = []
    fill(connected(url), sizes.backlog)
    for work, how in ((0.0, "at full speed"), (0.001, "1 ms of work each")):
        got = call("memory:measure", url=url, topic=TOPIC, seconds=sizes.memory_seconds, work=work)
        connected(url).xgroup_destroy(TOPIC, "memory")
        rows.append(
            (f"{sizes.backlog:,} small entries, {how}", f"{got['peak']:.0f} MB", f"{got['start']:.0f} MB at its start")
        )
    connected(url).flushall()
    for count, lines in ((sizes.small_frames, 250), (sizes.large_frames, 5_000)):
        size = call("memory:fill_frames", url=url, topic=TOPIC, count=count, rows=lines)
        got = call("memory:measure", url=url, topic=TOPIC, seconds=sizes.memory_seconds, work=0.005)
        connected(url).flushall()
        rows.append(
            (
                f"{count:,} frames of {size / 2**20:.2f} MB, 5 ms of work each",
                f"{got['peak']:.0f} MB",
                f"{got['start']:.0f} MB at its start",
            )
        )
    return rows


def flat(url: str, sizes: Sizes) -> list[Row]:
    """Measure the memory of an outlet that remembers, over many entries."""
    child = Child("flat_memory:measure", url=url, count=sizes.flat_entries)
    got = child.result(timeout=_MINUTES)
    connected(url).flushall()
    return [
        (
            f"after {one['entries']:,.0f} entries",
            f"{one['process']:.0f} MB",
            f"{one['redis'] - one['topic'] - one['records']:.1f} MB, {one['topic']:.1f} MB of the topic, {one['records']:.1f} MB of records",
        )
        for one in got
    ]


def windows(url: str, sizes: Sizes) -> list[Row]:
    """Compare windows of a minute and key with pandas by hand, and with Bytewax."""
    got = call("windows:bars", repeats=3 * sizes.rounds)
    rows: list[Row] = [
        ("bars of 12 frames of 5,000 rows, frame by frame", f"{got['window']:.0f} ms", ""),
        (
            "one pandas `groupby` of these frames",
            f"{got['by hand']:.0f} ms",
            f"{got['window'] / got['by hand']:.2f} x the time; {got['window, CPU'] / got['by hand, CPU']:.2f} x the CPU time",
        ),
    ]
    fill(connected(url), sizes.entries)
    rates = in_turn(
        list(WINDOWED),
        sizes.rounds,
        lambda name, turn: (
            sizes.entries / call("windows:measure", name=name, url=url, group=f"{name}-{turn}", count=sizes.entries)
        ),
    )
    connected(url).flushall()
    return rows + [
        (
            f"bars of 5,000 keys from small entries, {name}",
            f"{rate:,.0f}/s",
            "" if name == OURS else f"{rates[OURS] / rate:.2f} x",
        )
        for name, rate in rates.items()
    ]


def replicas(url: str, sizes: Sizes) -> list[Row]:
    """Compare one outlet of a group with two."""
    rows: list[Row] = []
    fill(connected(url), sizes.entries)
    for work in (0.0, 20e-6):
        took = in_turn(
            ["1", "2"],
            sizes.rounds,
            lambda n, turn, work=work: call(
                "scaling:replicas", url=url, group=f"{n}-{turn}-{work}", count=int(n), length=sizes.entries, work=work
            ),
        )
        how = f"{work * 1e6:.0f} us of computing an entry" if work else "the pipeline above"
        rows.append(
            (
                f"two outlets of one group beside one, {how}",
                f"{sizes.entries / took['2']:,.0f}/s",
                f"{took['1'] / took['2']:.2f} x one",
            )
        )
    connected(url).flushall()
    return rows


def partitions(url: str, sizes: Sizes) -> list[Row]:
    """Compare runs that share a partitioned topic with one run on a plain topic."""
    small = {"count": sizes.entries, "work": 20e-6}
    frames = {"count": sizes.large_frames, "rows": 5_000}
    return [
        *_shared(url, sizes, "compare", "a window and a sum for each key", small),
        *_shared(url, sizes, "compare_frames", "bars and a sum for each code of frames of 5,000 rows", frames),
        *pushed_frames(url, sizes),
    ]


def _shared(url: str, sizes: Sizes, function: str, title: str, arguments: dict[str, Any]) -> list[Row]:
    shapes = {"plain": (1, 0), "one": (1, PARTITIONS), "two": (2, PARTITIONS)}

    def seconds(name: str, turn: int) -> float:
        runs, count = shapes[name]
        return call(f"partitions:{function}", url=url, group=f"{name}-{turn}", runs=runs, partitions=count, **arguments)

    rates = {name: arguments["count"] / took for name, took in in_turn(list(shapes), sizes.rounds, seconds).items()}
    plain, one, two = (rates[name] for name in shapes)
    return [
        (f"{title}, plain topic, one run", f"{plain:,.0f}/s", ""),
        (f"{PARTITIONS} partitions, one run", f"{one:,.0f}/s", f"{one / plain:.2f} x plain"),
        (
            f"{PARTITIONS} partitions, two runs",
            f"{two:,.0f}/s",
            f"{two / one:.2f} x one run, {two / plain:.2f} x plain",
        ),
    ]


def pushed_frames(url: str, sizes: Sizes) -> list[Row]:
    """Compare pushes of frames that are split by rows with pushes to a plain topic."""
    shapes = {"plain": 0, "split": SPLIT}
    took = in_turn(
        list(shapes),
        sizes.rounds,
        lambda name, _: call("partitions:push", url=url, partitions=shapes[name], count=sizes.large_frames, rows=5_000),
    )
    return [
        ("a push of a frame of 5,000 rows, plain topic", f"{took['plain'] * 1e3:.2f} ms", ""),
        (
            f"split into {SPLIT} partitions by a column",
            f"{took['split'] * 1e3:.2f} ms",
            f"{took['split'] / took['plain']:.2f} x plain",
        ),
    ]


def simulated_fleet(url: str, sizes: Sizes) -> list[Row]:
    """Let runs that share partitions join, leave, die and stand still, on a simulated clock."""
    found = fleet.figures(url, partitions=64, runs=16, changes=sizes.changes, seed=1)
    connected(url).flushall()
    return [
        (
            f"{kind}, {of['number']} times",
            f"{of['median']:.2f}, {of['longest']:.2f} leases",
            f"{of['moves']:.1f} partitions moved, at least {of['least']:.1f}; fair after {of['settled']:.0f} s at the most",
        )
        for kind, of in found["kinds"].items()
    ]


def kept_state(url: str, sizes: Sizes) -> list[Row]:
    """Compare sums whose state is kept with sums that begin anew, and with Bytewax."""
    fill_keys(url, sizes.entries, sizes.keys)
    rates = in_turn(
        list(KEPT_STATE),
        sizes.rounds,
        lambda name, _: sizes.entries / call("kept_state:measure", name=name, url=url, count=sizes.entries),
    )
    connected(url).flushall()
    one, each = rates["one sum, kept"], rates["a sum for each key, kept"]
    return [
        (name, f"{rate:,.0f}/s", f"{(each if 'each key' in name else one) / rate:.2f} x")
        for name, rate in rates.items()
    ]


def heavy_steps(url: str, sizes: Sizes) -> list[Row]:
    """Compute for 50 ms on each entry."""
    fill(connected(url), sizes.heavy_entries)
    took = in_turn(
        heavy.CANDIDATES,
        sizes.rounds,
        lambda name, turn: call(
            "heavy:heavy", url=url, group=f"{name}-{turn}", name=name, count=sizes.heavy_entries, work=0.05
        ),
    )
    connected(url).flushall()
    return [
        (
            {"map": "`map`", "map_in_processes": "`map_in_processes(workers=2)`"}.get(
                name, "`scatter().map().buffer(8).gather()` on two Dask workers"
            ),
            f"{sizes.heavy_entries / took[name]:,.1f}/s",
            "" if name == "map" else f"{took['map'] / took[name]:.2f} x `map`",
        )
        for name in heavy.CANDIDATES
    ]


def pushing(url: str, sizes: Sizes) -> list[Row]:
    """Measure bulk pushes."""
    took = in_turn(
        ["push_many", "push_raw"],
        sizes.rounds,
        lambda name, _: call(
            "scaling:" + name.replace("push_many", "push"), url=url, topic=TOPIC, count=sizes.entries, at_once=1000
        ),
    )
    rates = {name: sizes.entries / seconds for name, seconds in took.items()}
    return [
        ("XADD in redis-py's pipelines, encoded before", f"{rates['push_raw']:,.0f}/s", ""),
        (
            "push_many, 1,000 at a time, encoding included",
            f"{rates['push_many']:,.0f}/s",
            f"{rates['push_many'] / rates['push_raw']:.2f} x",
        ),
    ]


def states(_: str, sizes: Sizes) -> list[Row]:
    """Measure encoding and decoding of kept state."""
    rows: list[Row] = []
    for kind in STATES:
        got = call("states:measure", kind=kind, count=sizes.states, repeats=5)
        ours, others = got["encode"] + got["decode"], got["pickle"] + got["unpickle"]
        rows.append((kind, f"{got['encode']:.1f} + {got['decode']:.1f} us", f"{ours / others:.1f} x pickle"))
    return rows


def growth(url: str, sizes: Sizes) -> list[Row]:
    """Vary one parameter at a time, and plot the cost."""
    unit, length = sizes.growth, sizes.backlog
    fill(connected(url), length)

    def of(points: Sequence[int], **fixed: Callable[[int], int]) -> dict[float, float]:
        def cost(point: str, turn: int) -> float:
            arguments: dict[str, Any] = {"first": 0, "count": unit, "nodes": 3, "topic": TOPIC}
            arguments |= {name: choose(int(point)) for name, choose in fixed.items()}
            took = call("scaling:cost", url=url, group=f"{turn}", **arguments)
            return took / arguments["count"] * 1e6

        return {int(point): value for point, value in in_turn([str(p) for p in points], 2, cost).items()}

    entries = of([unit // 2, unit, 2 * unit, 4 * unit], count=lambda n: n)
    nodes = of([1, 2, 4, 8, 16, 32], nodes=lambda n: n)
    backlog = of([unit, length // 10, length // 2, length], first=lambda n: length - n)
    connected(url).flushall()
    lengths = [unit, length // 10, length // 2, length]
    for n in lengths:
        fill(connected(url), n, f"{TOPIC}-{n}")
    reservoir = of(lengths, topic=lambda n: f"{TOPIC}-{n}", first=lambda n: n - unit)
    connected(url).flushall()
    for name, title, label, points in (
        ("entries", "Entries in one run", "entries", entries),
        ("nodes", "Nodes of the pipeline", "map nodes before the sink", nodes),
        ("backlog", "Backlog in front of the outlet", "entries not read yet", backlog),
        ("reservoir", "Length of the topic", "entries in the topic, of which the last are new", reservoir),
    ):
        drawn = plot(title, label, "microseconds an entry", points, logarithmic=name in ("backlog", "reservoir"))
        if sizes.writes:
            (ROOT / "docs" / f"performance-{name}.svg").write_text(drawn, encoding="utf-8")
    return [
        (
            title,
            " ".join(f"{value:.1f}" for value in points.values()) + " us",
            f"at {' '.join(f'{x:,}' for x in points)}",
        )
        for title, points in (
            ("an entry's cost by entries in the run", entries),
            ("by nodes", nodes),
            ("by backlog", backlog),
            ("by the topic's length", reservoir),
        )
    ]


SECTIONS: dict[str, tuple[Callable[[str, Sizes], list[Row]], Row]] = {
    "throughput": (
        throughput,
        ("Entries through `filter -> map -> filter -> sink`, one at a time unless noted", "", "Sluice is"),
    ),
    "frame": (frame, ("One DataFrame of 5,000 x 32", "", "")),
    "latency": (latency, ("Latency", "", "")),
    "memory": (memory, ("Memory of an outlet above its start", "peak", "")),
    "flat": (flat, ("Memory of an outlet that keeps two sums and bars of 1,000 keys", "process", "Redis")),
    "windows": (windows, ("Windows of a minute", "", "Sluice takes or is")),
    "replicas": (replicas, ("Replicas", "", "")),
    "partitions": (partitions, ("Partitions", "", "")),
    "fleet": (
        simulated_fleet,
        ("64 partitions, up to 16 runs, simulated", "a partition without an owner: median, longest", ""),
    ),
    "kept_state": (kept_state, ("State that is kept, and 100,000 keys", "", "kept state is")),
    "heavy": (heavy_steps, ("50 ms of computing an entry, on two cores", "", "")),
    "push": (pushing, ("Pushing", "", "")),
    "states": (states, ("One state, encoded + decoded", "", "")),
    "growth": (growth, ("Growth", "", "")),
}
