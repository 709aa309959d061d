"""Real live data on every machine, without a network: what its processes use, and which of them use most."""

import pandas as pd
from streamz import Stream

from flows import inlet, outlet
from tasks.feeds.host import Machine
from tasks.reservoir.entry import has

__all__ = ["busiest", "vitals"]

_MACHINE = Machine()
# Each run is a process of its own: with the counters at its start, its first tick has rates already.
_MACHINE.sample()

_RATES = ["cpu_percent", "read_bytes_per_s", "write_bytes_per_s"]


@inlet(topic="machine", every="1s", keep=3_600)
def vitals() -> dict[str, pd.DataFrame | dict[str, float | int | None]]:
    """What every process of this machine uses (a row each), and the machine's totals in a second field."""
    processes, totals = _MACHINE.sample()
    return {"vitals": processes, "totals": totals}


@outlet(topics="machine", group="busiest", into="busiest")
def busiest(source: Stream, top: int = 10) -> Stream:
    """The processes that used most over the last five snapshots.

    Args:
        top: How many processes.
    """
    return source.filter(has("vitals")).pluck("vitals").sliding_window(5).map(most_used, top)


def most_used(snapshots: tuple[pd.DataFrame, ...], top: int) -> pd.DataFrame:
    """Return the `top` processes that used most CPU over the snapshots, then most memory.

    returns   by pid: name, the mean of each rate (a process that was not there used nothing), the most of
              memory and threads; NaN where no snapshot knows it
    """
    with_rates = sum(bool(snapshot["cpu_percent"].notna().any()) for snapshot in snapshots)
    # A pid may come back as another process.
    processes = pd.concat(snapshots).groupby(["pid", "name"])
    rates = pd.DataFrame(processes[_RATES].agg("sum", min_count=1).div(max(with_rates, 1)))
    most = pd.DataFrame(processes[["memory_bytes", "threads"]].max())
    used = rates.join(most).reset_index("name")
    return used.loc[:, snapshots[-1].columns].nlargest(top, ["cpu_percent", "memory_bytes"])
