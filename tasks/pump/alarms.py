"""Alarms of inlets: one that fails, and one that has pushed nothing newer within its `fresh_within`. Pure: no Redis."""

from collections.abc import Iterable, Iterator

from tasks.base.quantities import in_time
from tasks.base.shell import sluice_command
from tasks.pump.counts import InletCounts
from tasks.reservoir.alarms import Alarm

__all__ = ["alarms_of_inlets"]

_FAILING_MS = 60_000  # without a tick that worked; a shorter failure may be a single tick's
_LATELY_MS = 600_000  # an inlet whose last failure is older has stopped, or has no entry to push


def alarms_of_inlets(inlets: Iterable[InletCounts], now_ms: int) -> Iterator[Alarm]:
    """Yield the alarms of inlets.

    now_ms    the time by the clock of Redis
    """
    for each in inlets:
        if (message := _failing(each, now_ms)) is not None:
            remedy = f"`{sluice_command('logs', each.inlet)}` shows the exception"
            yield Alarm("sluice.inlet.failing", each.topic, "inlet", each.inlet, 0, message, remedy)
        if (message := _silent(each, now_ms)) is not None:
            remedy = "check that its schedule is on, that a run is active and that its source has news"
            yield Alarm("sluice.topic.silent", each.topic, "inlet", each.inlet, 0, message, remedy)


def _failing(each: InletCounts, now_ms: int) -> str | None:
    failed = each.latest.get("failed", 0)
    worked = max(each.latest.get("pushed", 0), each.latest.get("nothing", 0))
    if not failed or failed <= worked or now_ms - failed > _LATELY_MS or now_ms - worked < _FAILING_MS:
        return None
    since = f"since {in_time((now_ms - worked) / 1000)} ago" if worked else "since it began"
    return f"inlet {each.inlet!r} of topic {each.topic!r} fails: no tick has worked {since}"


def _silent(each: InletCounts, now_ms: int) -> str | None:
    pushed = each.latest.get("pushed")
    if not each.fresh_within or now_ms - max(pushed or 0, each.fresh_since) <= each.fresh_within * 1000:
        return None
    newest = "it has pushed none" if pushed is None else f"its newest one is {in_time((now_ms - pushed) / 1000)} old"
    return f"inlet {each.inlet!r} of topic {each.topic!r}: expected a new entry within {in_time(each.fresh_within)}; {newest}"
