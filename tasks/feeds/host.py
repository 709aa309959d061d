"""Resource usage of this machine: per process and in total."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import pandas as pd
import psutil

__all__ = ["HostCounters", "Machine", "ProcessCounters", "TotalCounters", "read_counters"]

_ATTRIBUTES = ["pid", "name", "create_time", "cpu_times", "memory_info", "num_threads"]
_HAS_IO = hasattr(psutil.Process, "io_counters")  # not on macOS
_NAN = float("nan")


@dataclass(frozen=True, slots=True)
class ProcessCounters:
    """Counters of one process since its creation; NaN where the system does not show them.

    memory    bytes of physical memory that it uses now
    """

    pid: int
    name: str
    created: float
    cpu_seconds: float = _NAN
    memory: float = _NAN
    threads: float = _NAN
    read_bytes: float = _NAN
    written_bytes: float = _NAN


@dataclass(frozen=True, slots=True)
class TotalCounters:
    """Counters of the machine since its start, and its memory in use now; NaN where the system does not show them."""

    busy_seconds: float
    cpu_seconds: float
    memory_used: int
    memory_total: int
    load: float = _NAN
    disk_read: float = _NAN
    disk_written: float = _NAN
    net_received: float = _NAN
    net_sent: float = _NAN


HostCounters = tuple[list[ProcessCounters], TotalCounters]


class Machine:
    """Takes samples of a machine; rates are measured since the previous sample, so the first sample has none.

    read     returns the current counters
    """

    def __init__(self, read: Callable[[], HostCounters] | None = None) -> None:
        self._read = read or read_counters
        self._before: tuple[float, dict[tuple[int, float], ProcessCounters], TotalCounters] | None = None

    def sample(self, now: float | None = None) -> tuple[pd.DataFrame, dict[str, float | int | None]]:
        """Return a frame of the processes, by pid, and the machine's totals.

        now       seconds since the epoch; by default the current time
        returns   frame   name, cpu_percent (100 is one core), memory_bytes, threads, read_bytes_per_s,
                          write_bytes_per_s; NaN where unknown: without a previous sample, or for lack of rights
                  totals  cpu_percent (100 is all cores), memory_used_bytes, memory_total_bytes, load_1min,
                          disk_read_bytes_per_s, disk_write_bytes_per_s, net_received_bytes_per_s,
                          net_sent_bytes_per_s, processes; None where unknown
        """
        now = time.time() if now is None else now
        processes, totals = self._read()
        # The system reuses pids: only pid and creation time together identify a process.
        by_identity = {(process.pid, process.created): process for process in processes}
        before, self._before = self._before, (now, by_identity, totals)
        elapsed, old_processes, old_totals = _NAN, {}, totals
        if before is not None:
            elapsed, old_processes, old_totals = now - before[0], before[1], before[2]
        began = now - elapsed
        pairs = [(new, old_processes.get(key) or _at_birth(new, began)) for key, new in by_identity.items()]
        return _frame(pairs, elapsed), _totals(totals, old_totals, elapsed, len(processes))


def _at_birth(process: ProcessCounters, since: float) -> ProcessCounters:
    """Return the earlier counters of a process that the previous sample lacks: zeros if it was created since."""
    used = 0.0 if process.created >= since else _NAN
    return ProcessCounters(
        process.pid,
        process.name,
        process.created,
        cpu_seconds=used,
        read_bytes=used,
        written_bytes=used,
    )


def _frame(pairs: Iterable[tuple[ProcessCounters, ProcessCounters]], elapsed: float) -> pd.DataFrame:
    rows = [
        (
            new.pid,
            new.name,
            _rate(new.cpu_seconds, old.cpu_seconds, elapsed) * 100,
            new.memory,
            new.threads,
            _rate(new.read_bytes, old.read_bytes, elapsed),
            _rate(new.written_bytes, old.written_bytes, elapsed),
        )
        for new, old in pairs
    ]
    columns = ["name", "cpu_percent", "memory_bytes", "threads", "read_bytes_per_s", "write_bytes_per_s"]
    dtypes = dict(zip(["pid", *columns], ["int64", "str", *repeat("float64", 5)], strict=True))
    return pd.DataFrame(rows, columns=["pid", *columns]).astype(dtypes).set_index("pid")


def _totals(new: TotalCounters, old: TotalCounters, elapsed: float, processes: int) -> dict[str, float | int | None]:
    totals = {
        "cpu_percent": 100 * _rate(new.busy_seconds, old.busy_seconds, new.cpu_seconds - old.cpu_seconds),
        "memory_used_bytes": new.memory_used,
        "memory_total_bytes": new.memory_total,
        "load_1min": new.load,
        "disk_read_bytes_per_s": _rate(new.disk_read, old.disk_read, elapsed),
        "disk_write_bytes_per_s": _rate(new.disk_written, old.disk_written, elapsed),
        "net_received_bytes_per_s": _rate(new.net_received, old.net_received, elapsed),
        "net_sent_bytes_per_s": _rate(new.net_sent, old.net_sent, elapsed),
        "processes": processes,
    }
    return {name: None if value != value else value for name, value in totals.items()}  # noqa: PLR0124 - NaN


def _rate(new: float, old: float, elapsed: float) -> float:
    """Return the growth per second, or NaN if unknown. A counter that decreased has restarted from zero."""
    if not elapsed > 0:  # no previous sample, or the clock was set back
        return _NAN
    return (new - old if new >= old else new) / elapsed if old == old else _NAN  # noqa: PLR0124 - NaN


def read_counters() -> HostCounters:
    """Return the counters of all readable processes, and of the machine."""
    attributes = [*_ATTRIBUTES, "io_counters"] if _HAS_IO else _ATTRIBUTES
    # Counters without permission (another user's io_counters) are None; a process that ends during the read is left out.
    processes = [_counters(process.info) for process in psutil.process_iter(attributes, ad_value=None)]
    return [process for process in processes if process is not None], _total_counters()


def _counters(info: dict[str, Any]) -> ProcessCounters | None:
    if info["create_time"] is None:
        return None
    cpu, memory, io = info["cpu_times"], info["memory_info"], info.get("io_counters")
    return ProcessCounters(
        info["pid"],
        info["name"] or "",
        info["create_time"],
        cpu_seconds=cpu.user + cpu.system if cpu else _NAN,
        memory=memory.rss if memory else _NAN,
        threads=info["num_threads"] or _NAN,
        read_bytes=io.read_bytes if io else _NAN,
        written_bytes=io.write_bytes if io else _NAN,
    )


def _total_counters() -> TotalCounters:
    cpu = psutil.cpu_times()
    # Linux counts a guest's time in `user` as well.
    all_seconds = sum(cpu) - getattr(cpu, "guest", 0) - getattr(cpu, "guest_nice", 0)
    memory, disk, net = psutil.virtual_memory(), psutil.disk_io_counters(), psutil.net_io_counters()
    return TotalCounters(
        busy_seconds=all_seconds - cpu.idle - getattr(cpu, "iowait", 0),
        cpu_seconds=all_seconds,
        memory_used=memory.total - memory.available,
        memory_total=memory.total,
        load=psutil.getloadavg()[0],
        disk_read=disk.read_bytes if disk else _NAN,
        disk_written=disk.write_bytes if disk else _NAN,
        net_received=net.bytes_recv if net else _NAN,
        net_sent=net.bytes_sent if net else _NAN,
    )
