"""Live data of any machine, without a network: the resources that its processes use, and the busiest of them."""

import pandas as pd
from streamz import Stream

from flows import inlet, outlet
from tasks.feeds.host import Machine
from tasks.reservoir.entry import has

__all__ = ["busiest", "vitals"]

_MACHINE = Machine()
# Sampled at the start of the run's process, so that its first tick has rates already.
_MACHINE.sample()

_MOST = ["memory_bytes", "threads", "cpu_seconds"]
_MOST_NAMES = 1_000
_RATES = ["cpu_percent", "read_bytes_per_s", "write_bytes_per_s"]


@inlet(topic="machine", every="1s", keep=3_600)
def vitals() -> dict[str, pd.DataFrame | dict[str, float | int | None]]:
    """Push the resources that each process of this machine uses, one row each, and the machine's totals in a second field."""
    processes, totals = _MACHINE.sample()
    return {"vitals": processes, "totals": totals}


@outlet(topics="machine", group="busiest", into="busiest")
def busiest(source: Stream, top: int = 10) -> Stream:
    """Show the processes that used most CPU over the last five snapshots, and how much their name has used in all.

    A restart continues with these sums.

    Args:
        top: Number of processes shown.
    """
    snapshots = source.filter(has("vitals")).pluck("vitals")
    summed = snapshots.accumulate(add_cpu_time, start={}, returns_state=True, stream_name="CPU seconds")
    return summed.sliding_window(5).map(most_used, top)


def add_cpu_time(used: dict[str, float], snapshot: pd.DataFrame) -> tuple[dict[str, float], pd.DataFrame]:
    """Add the CPU time of one second to the sums by process name; return the sums, and the snapshot with those of its processes.

    The smallest sums are dropped beyond 1,000 names.

    used      CPU seconds by process name
    returns   the sums; the snapshot with a column `cpu_seconds`
    """
    sums = dict(used)
    for name, percent in zip(snapshot["name"], snapshot["cpu_percent"].fillna(0.0), strict=True):
        sums[name] = sums.get(name, 0.0) + percent / 100
    if len(sums) > _MOST_NAMES:
        sums = dict(sorted(sums.items(), key=lambda one: one[1], reverse=True)[:_MOST_NAMES])
    seconds = [sums.get(name, 0.0) for name in snapshot["name"]]
    return sums, snapshot.assign(cpu_seconds=pd.Series(seconds, index=snapshot.index, dtype="float64"))


def most_used(snapshots: tuple[pd.DataFrame, ...], top: int) -> pd.DataFrame:
    """Return the `top` processes that used most CPU over the snapshots, then most memory.

    returns   by pid: name, the mean of each rate (0 for snapshots without the process), the maximum of memory, threads and
              CPU seconds; NaN if no snapshot has the value
    """
    with_rates = sum(bool(snapshot["cpu_percent"].notna().any()) for snapshot in snapshots)
    # Another process may reuse a pid.
    processes = pd.concat(snapshots).groupby(["pid", "name"])
    rates = pd.DataFrame(processes[_RATES].agg("sum", min_count=1).div(max(with_rates, 1)))
    most = pd.DataFrame(processes[[name for name in _MOST if name in snapshots[-1]]].max())
    used = rates.join(most).reset_index("name")
    return used.loc[:, snapshots[-1].columns].nlargest(top, ["cpu_percent", "memory_bytes"])
