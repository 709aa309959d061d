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

_RATES = ["cpu_percent", "read_bytes_per_s", "write_bytes_per_s"]


@inlet(topic="machine", every="1s", keep=3_600)
def vitals() -> dict[str, pd.DataFrame | dict[str, float | int | None]]:
    """Push the resources that each process of this machine uses, one row each, and the machine's totals in a second field."""
    processes, totals = _MACHINE.sample()
    return {"vitals": processes, "totals": totals}


@outlet(topics="machine", group="busiest", into="busiest")
def busiest(source: Stream, top: int = 10) -> Stream:
    """Show the processes that used most CPU over the last five snapshots.

    Args:
        top: Number of processes shown.
    """
    return source.filter(has("vitals")).pluck("vitals").sliding_window(5).map(most_used, top)


def most_used(snapshots: tuple[pd.DataFrame, ...], top: int) -> pd.DataFrame:
    """Return the `top` processes that used most CPU over the snapshots, then most memory.

    returns   by pid: name, the mean of each rate (0 for snapshots without the process), the maximum of memory and threads; NaN
              if no snapshot has the value
    """
    with_rates = sum(bool(snapshot["cpu_percent"].notna().any()) for snapshot in snapshots)
    # Another process may reuse a pid.
    processes = pd.concat(snapshots).groupby(["pid", "name"])
    rates = pd.DataFrame(processes[_RATES].agg("sum", min_count=1).div(max(with_rates, 1)))
    most = pd.DataFrame(processes[["memory_bytes", "threads"]].max())
    used = rates.join(most).reset_index("name")
    return used.loc[:, snapshots[-1].columns].nlargest(top, ["cpu_percent", "memory_bytes"])
