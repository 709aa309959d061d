"""Flows for the operator: report the reservoir's levels, trim topics, rewind a group, replay dead letters, compact an archive."""

from datetime import date
from pathlib import Path

import redis
from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact

from flows.runtime.alarm_events import emit_alarms
from flows.runtime.run_names import named_after
from flows.runtime.sentences import log_errors_in_one_sentence
from tasks.base.plain_text import in_markdown
from tasks.base.quantities import counted, size
from tasks.base.state_folder import state_dir
from tasks.checks import seconds
from tasks.errors import SettingsError, UnreadableTopicError
from tasks.group import rewind as rewinding
from tasks.group.dead_letters import DeadLetters, Letter, Outcome, mixing
from tasks.pump.alarms import alarms_of_inlets
from tasks.pump.counts import beats, counts_of, redis_ms
from tasks.report.levels import markdown, short_bytes
from tasks.report.pipeline import letters_table
from tasks.reservoir import Reservoir, history
from tasks.reservoir.alarms import Limits, alarms_of
from tasks.reservoir.connection import in_words, is_outage
from tasks.reservoir.keys import LEVELS, derived_from
from tasks.reservoir.levels import TopicLevel
from tasks.reservoir.retention import Retention
from tasks.reservoir.unreadable import named

__all__ = ["compact", "levels", "replay_dead_letters", "rewind", "trim"]

# A day at one in five minutes: what a chart shows.
_SHOWN_SAMPLES = 288


@flow(flow_run_name=named_after("levels"), persist_result=False)
def levels(max_lag: int = 1_000, max_behind: str = "5min") -> str:
    """Report the size of every topic and the lag of its groups, now and over time, as an artifact.

    Logs a warning and emits an event for each alarm. `sluice.topic.lagging`: a group is behind by more than the limits, or by half
    of what its topic keeps. `sluice.entry.dead` and `sluice.reservoir.spilled`: since the last run, entries became dead letters
    or were dropped unread. `sluice.inlet.failing`: no tick of an inlet has worked for a minute. `sluice.topic.silent`: an inlet has
    pushed nothing within its `fresh_within`.

    Args:
        max_lag: Number of unread entries from which a group raises an alarm.
        max_behind: Age of a group's oldest unread entry from which it raises an alarm.
    """
    log_errors_in_one_sentence()
    limits = Limits(max_lag, seconds(max_behind, name="max_behind"))
    reservoir = Reservoir.from_url()
    found = reservoir.levels()
    unreadable = [level.unreadable for level in found if level.unreadable]
    for why in unreadable:
        get_run_logger().warning("%s", why)
    samples = _sampled(found, history.History(reservoir.client))
    before = samples[-2] if len(samples) > 1 else None
    alarms = [
        *alarms_of(found, before, limits=limits),
        *alarms_of_inlets(counts_of(reservoir.client, beats(reservoir.client)), redis_ms(reservoir.client)),
    ]
    for alarm in alarms:
        get_run_logger().warning("%s; %s", alarm.message, alarm.remedy)
    emit_alarms(alarms)
    create_markdown_artifact(
        markdown(found, samples, alarms),
        key="sluice-levels",
        description="Levels of the reservoir's topics and lag of their groups",
    )
    groups = sum(len(level.groups) for level in found)
    wrong = f"; {len(alarms)} alarm{'s' * (len(alarms) != 1)}" if alarms else ""
    return f"{len(found)} topics, {groups} groups{wrong}" + (f"; {len(unreadable)} unreadable" if unreadable else "")


def _sampled(levels: list[TopicLevel], samples: history.History) -> list[history.Sample]:
    """Add a sample and return those to show, the new one last; log a warning and return none if they cannot be stored."""
    try:
        before = samples.latest()
        samples.add(levels, before[0] if before else None)
        return samples.latest(_SHOWN_SAMPLES)
    except redis.ResponseError as error:
        if is_outage(error):
            raise
        get_run_logger().warning(
            "no sample was kept, so this run has no charts and repeats events: expected %r to be a stream of samples (%s); "
            "rename or delete it",
            LEVELS, in_words(error),
        )  # fmt: skip
        return []


@flow(flow_run_name=named_after("trim"), persist_result=False)
def trim(forget_after: str = "7 days") -> str:
    """Remove entries beyond the limits of their topics, also from topics that get no appends any more.

    Entries that a live group has not finished stay. A group without a reader for some time is forgotten: it retains nothing until
    it reads again.

    Args:
        forget_after: Time without a reader after which a group is forgotten.
    """
    log_errors_in_one_sentence()
    log = get_run_logger()
    after_ms = round(seconds(forget_after, name="forget_after") * 1000)
    reservoir = Reservoir.from_url()
    retention = Retention(reservoir.client)
    removed: dict[str, int] = {}
    unreadable = 0
    for topic in reservoir.streams():
        if derived_from(topic):  # dead letters and retries have limits of their own
            continue
        forgotten, trimmed = [], None
        try:
            with named(reservoir.client, topic):
                forgotten = retention.forget(topic, after_ms=after_ms)
                trimmed = retention.trim(topic)
        except UnreadableTopicError as error:
            unreadable += 1
            log.warning("%s; it was not trimmed", error)
        for group in forgotten:
            log.warning("topic %r: group %r has had no reader for %s; it retains nothing", topic, group, forget_after)
        if trimmed and trimmed.removed:
            removed[topic] = trimmed.removed
            if trimmed.spilled:
                log.warning("topic %r: some group had not read %d of the removed entries", topic, trimmed.spilled)
    if removed:
        log.info("entries removed: %s", ", ".join(f"{count:,} of {topic}" for topic, count in removed.items()))
    return f"{sum(removed.values())} entries removed" + (f"; {unreadable} unreadable" if unreadable else "")


@flow(flow_run_name=named_after("rewind"), persist_result=False)
def rewind(topic: str, group: str, to: str, force: bool = False) -> str:  # noqa: FBT001, FBT002 - a form's checkbox
    """Move a group to another position of a topic, from which it reads again.

    All pending entries of the group are acknowledged, also those before the position, and the state that the group keeps is
    deleted. Refused while the group's outlet runs.
    An interrupted run has lost nothing: run it again for the rest.

    Args:
        topic: Topic to move in.
        group: Consumer group to move.
        to: Position to continue from - beginning, end, an ISO time or an entry id.
        force: Rewind even while the outlet runs. It still processes the entries that it has read before.
    """
    log_errors_in_one_sentence()
    reservoir = Reservoir.from_url()
    rewound = rewinding.rewind(reservoir.client, topic, group, to, force=force)
    log = get_run_logger()
    if rewound.alive:
        log.warning(
            "consumers were alive: %s; they still process the entries that they had read", ", ".join(rewound.alive)
        )
    done = f"group {group!r} continues from {to} on topic {topic!r}; {rewound.acknowledged} pending entries were acknowledged"
    return f"{done}; its kept state was deleted" if rewound.had_state else done


@flow(name="replay_dead_letters", flow_run_name=named_after("replay_dead_letters"), persist_result=False)
def replay_dead_letters(
    topic: str,
    group: str,
    *,
    ids: list[str] | None = None,
    node: str | None = None,
    exception: str | None = None,
    since: str | None = None,
    until: str | None = None,
    limit: int | None = None,
    into_windows: bool = False,
    dry_run: bool = False,
) -> str:
    """Return dead letters to their group, and to no other, as the original entries, in the order of the topic.

    Only letters that match all given filters are replayed; without filters, all of them. An entry that fails again becomes a
    dead letter again. An interrupted run has moved or kept each letter: run it again for the rest.

    Refused if the pipeline had windows, joins or accumulators, which would combine the entries with others than they were
    pushed with: rewind the group, or run a bounded replay, or confirm with `into_windows`.

    Args:
        topic: Topic that the entries were pushed to.
        group: Consumer group that could not process them.
        ids: Replay only these ids of letters.
        node: Replay only entries that failed at this node of the pipeline.
        exception: Replay only entries whose exception contains this text.
        since: Replay only entries that failed from then on - an ISO time or a letter's id.
        until: Replay only entries that had failed by then - an ISO time or a letter's id.
        limit: Replay at most this many, those of the oldest entries.
        into_windows: Replay even if the pipeline combines entries, or if that is unknown.
        dry_run: Only show the chosen letters.
    """
    log_errors_in_one_sentence()
    letters = DeadLetters(Reservoir.from_url().client, topic, group)
    chosen = letters.choose(ids=ids, node=node, exception=exception, since=since, until=until, limit=limit)
    if dry_run and (why := mixing(chosen)):
        get_run_logger().warning("%s", why)
    outcomes: dict[Letter, Outcome] = {}
    try:
        outcomes.update(() if dry_run else letters.replay(chosen, into_windows=into_windows))
    finally:
        create_markdown_artifact(
            letters_table(chosen, outcomes, otherwise="chosen" if dry_run else "not confirmed"),
            key="sluice-dead-letters",
            description=f"Dead letters of group {in_markdown(repr(group))} on topic {in_markdown(repr(topic))} and their outcomes",
        )
    replayed = sum(outcome == "replayed" for outcome in outcomes.values())
    result = (
        f"group {group!r} on topic {topic!r}: {len(chosen)} dead letters chosen, {replayed} replayed, "
        f"{len(outcomes) - replayed} skipped; {len(letters)} are left"
    )
    get_run_logger().info(result)
    return result


@flow(flow_run_name=named_after("compact"), persist_result=False)
def compact(folder: str | None = None, file_size: str = "128MB", today: bool = False) -> str:  # noqa: FBT001, FBT002 - a form's checkbox
    """Merge the small files of an archive into few large ones, for each day that is over in UTC.

    Outlets may write at the same time. Readers see either the old files of a day or the new ones. An interrupted run loses and doubles no
    row: the next run goes on.

    Args:
        folder: Folder of the archive. If empty, archive/ in the state folder, .sluice/.
        file_size: Size up to which files are merged.
        today: Merge the files of today, too.
    """
    from tasks.archive.compaction import compact as merge  # noqa: PLC0415 - needs Arrow, which the other flows do not

    log_errors_in_one_sentence()
    max_bytes = size(file_size)
    if not max_bytes:
        msg = f"file_size: expected a size such as '128MB', got {file_size!r}"
        raise SettingsError(msg)
    path = state_dir() / "archive" if folder is None else Path(folder)
    if not path.is_dir():
        return f"there is no archive at {path}"
    done = merge(path, max_bytes=max_bytes, before=date.max if today else None)
    if not done.days:
        return "no small files to merge"
    return (
        f"{counted(done.days, 'day')}: {done.files:,} files of {short_bytes(done.bytes)} became {done.new_files:,} of "
        f"{short_bytes(done.new_bytes)}"
    )
