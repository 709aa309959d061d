"""Alarms of groups: one that is behind, has new dead letters, or had unread entries dropped. Pure: no Redis.

Levels, an earlier sample and limits give the alarms. `flows.alerts` emits them, `sluice doctor` prints them, runs log them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import inf
from typing import Literal

from tasks.base.quantities import counted, in_time
from tasks.base.shell import sluice_command
from tasks.reservoir.history import Sample
from tasks.reservoir.keep import Keep
from tasks.reservoir.levels import GroupLevel, TopicLevel

__all__ = ["DEFAULT_LIMITS", "Alarm", "Limits", "alarms_of"]

# The share of a topic's own limits at which a lagging group raises an alarm: half of the time is left to act.
_SHARE = 0.5
# Seconds: a shorter backlog is normal in a topic that keeps little.
_BRIEF = 5.0


@dataclass(frozen=True, slots=True)
class Limits:
    """The lag from which a group raises an alarm; half of what its topic keeps raises one, too.

    entries   number of unread entries
    seconds   age of the oldest unread entry
    """

    entries: int = 1_000
    seconds: float = 300.0


DEFAULT_LIMITS = Limits()
"""The limits of `sluice doctor` and of reports, and the defaults of the flow `levels`."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """One problem of a topic's group or inlet.

    event    the name of its event in Prefect
    kind     whether `name` is that of a group or of an inlet
    entries  number of entries concerned; 0 for an inlet
    message  the problem, in one sentence
    remedy   what to do
    """

    event: str
    topic: str
    kind: Literal["group", "inlet"]
    name: str
    entries: int
    message: str
    remedy: str


def alarms_of(
    levels: Iterable[TopicLevel], before: Sample | None, *, limits: Limits = DEFAULT_LIMITS
) -> Iterator[Alarm]:
    """Yield the alarms of all groups.

    before   an earlier sample: letters and dropped entries that it has counted raise no alarm again. A group that had read
             everything by then raises none by the age of its unread entries, which may have come while nothing ran
    """
    for level in levels:
        for group in level.groups:
            had_read_all = before is not None and before.lags.get((level.topic, group.name)) == 0
            yield from _lagging(level, group, replace(limits, seconds=inf) if had_read_all else limits)
            yield from _lost(level.topic, group, before)


def _lagging(level: TopicLevel, group: GroupLevel, limits: Limits) -> Iterator[Alarm]:
    limit = _exceeded(level.keep, group, limits)
    if group.is_forgotten or limit is None:
        return
    lag = "an unknown number of entries" if group.lag is None else counted(group.lag, "entry", "entries")
    remedy = (
        f"check that its outlet runs and keeps up (`{sluice_command('status')}`), or delete the group if it is unused "
        f"(`{sluice_command('groups drop', level.topic, group.name)}`)"
    )
    message = f"group {group.name!r} on topic {level.topic!r} is behind by {in_time(group.behind)}, {lag}{limit}"
    yield Alarm("sluice.topic.lagging", level.topic, "group", group.name, group.lag or 0, message, remedy)


def _lost(topic: str, group: GroupLevel, before: Sample | None) -> Iterator[Alarm]:
    who = topic, group.name
    dead = group.dead + group.dead_dropped - (before.dead.get(who, 0) if before else 0)
    spilled = group.spilled - (before.spilled.get(who, 0) if before else 0)
    if dead > 0:
        message = f"group {group.name!r} on topic {topic!r}: {counted(dead, 'entry', 'entries')} became dead letters"
        remedy = f"`{sluice_command('dead', *who)}` shows node and exception"
        yield Alarm("sluice.entry.dead", topic, "group", group.name, dead, message, remedy)
    if spilled > 0:
        message = f"topic {topic!r}: {counted(spilled, 'entry', 'entries')} were dropped before group {group.name!r} had read them"
        remedy = "raise `keep` of the topic, make the outlet faster, or let the topic wait (when_full='wait')"
        yield Alarm("sluice.reservoir.spilled", topic, "group", group.name, spilled, message, remedy)


def _exceeded(keep: Keep | None, group: GroupLevel, limits: Limits) -> str | None:
    """Return the topic's limit that a group exceeds, as the end of a sentence; '' for another limit, None for none."""
    lag, behind = group.lag or 0, group.behind
    if keep and behind > _BRIEF:
        if keep.entries and lag > _SHARE * keep.entries:
            return f"; the topic keeps {counted(keep.entries, 'entry', 'entries')}"
        if keep.age_ms and _SHARE * keep.age_ms / 1000 < behind and limits.seconds < inf:
            return f"; the topic keeps entries for {in_time(keep.age_ms / 1000)}"
    return "" if lag > limits.entries or behind > limits.seconds else None
