"""The metrics: their names, labels and values.

Names and labels follow OpenTelemetry's conventions for messaging (1.4x, status: development) where these have one: the counters of
sent and consumed messages, and the attributes of destinations, consumer groups and errors, with '_' for '.'. All others begin
with `sluice_`.
"""

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from deployments.metrics.reading import Reading
from tasks.pump.counts import InletCounts
from tasks.reservoir.levels import GroupLevel, TopicLevel

__all__ = ["families"]

_TOPIC = "messaging_destination_name"
_GROUP = "messaging_consumer_group_name"
_SYSTEM = {"messaging_system": "sluice"}
_OUTCOMES = ("pushed", "nothing", "missed", "failed", "lost")


def families(reading: Reading) -> Iterator[Metric]:
    """Yield all metrics of a reading."""
    yield _gauge("sluice_redis_up", "Whether Redis answered the last reading.", [({}, not reading.error)])
    yield _gauge("sluice_reading_seconds", "Duration of the last reading of Redis.", [({}, reading.seconds)])
    yield from _of_topics(reading.topics)
    yield from _of_groups([(level.topic, group) for level in reading.topics for group in level.groups])
    yield from _of_inlets(reading.inlets)


def _of_topics(topics: Iterable[TopicLevel]) -> Iterator[Metric]:
    every = [({_TOPIC: level.topic}, level) for level in topics]
    yield _gauge(
        "sluice_topic_readable",
        "Whether the topic and the keys beside it can be read.",
        [(one, not level.unreadable) for one, level in every],
    )
    found = [(one, level) for one, level in every if not level.unreadable]
    yield _gauge("sluice_topic_entries", "Entries that the topic holds.", [(one, level.length) for one, level in found])
    yield _gauge(
        "sluice_topic_bytes",
        "Bytes that the topic holds: as appended; of other programs' topics, in memory.",
        [(one, level.bytes) for one, level in found],
    )
    yield _gauge(
        "sluice_topic_newest_entry_age_seconds",
        "Time since the newest entry was appended.",
        [(one, level.age) for one, level in found],
    )
    yield _gauge(
        "sluice_topic_keep_seconds",
        "Age beyond which entries are removed.",
        [(one, level.keep.age_ms / 1000) for one, level in found if level.keep and level.keep.age_ms],
    )
    yield _gauge(
        "sluice_topic_keep_entries",
        "Number of entries beyond which the oldest are removed.",
        [(one, level.keep.entries) for one, level in found if level.keep and level.keep.entries],
    )
    yield _gauge(
        "sluice_topic_keep_bytes",
        "Bytes beyond which the oldest entries are removed.",
        [(one, level.keep.max_bytes) for one, level in found if level.keep and level.keep.max_bytes],
    )
    yield _counter(
        "messaging_client_sent_messages",
        "Entries that were appended.",
        [(_SYSTEM | {"messaging_operation_name": "append"} | one, level.pushed) for one, level in found],
    )
    yield _counter(
        "sluice_topic_appended_bytes", "Bytes that were appended.", [(one, level.pushed_bytes) for one, level in found]
    )


def _of_groups(groups: Iterable[tuple[str, GroupLevel]]) -> Iterator[Metric]:
    found = [({_TOPIC: topic, _GROUP: group.name}, group) for topic, group in groups]
    yield _gauge(
        "sluice_group_lag_entries",
        "Entries that the group has not read; absent where that is unknown.",
        [(one, group.lag) for one, group in found],
    )
    yield _gauge(
        "sluice_group_lag_seconds",
        "Time since the oldest entry that the group has not read was appended; 0 without one.",
        [(one, group.behind) for one, group in found],
    )
    yield _gauge(
        "sluice_group_pending_entries",
        "Entries that the group has read and not acknowledged.",
        [(one, group.pending) for one, group in found],
    )
    yield _gauge(
        "sluice_group_oldest_pending_age_seconds",
        "Time since the oldest of these was appended.",
        [(one, group.oldest_pending) for one, group in found],
    )
    yield _gauge(
        "sluice_group_consumers",
        "Consumers of the group, alive or dead.",
        [(one, group.consumers) for one, group in found],
    )
    yield _gauge(
        "sluice_group_retrying_calls",
        "Failed calls of nodes that are tried again.",
        [(one, group.retrying) for one, group in found],
    )
    yield _gauge(
        "sluice_group_dead_letters", "Dead letters that the group keeps.", [(one, group.dead) for one, group in found]
    )
    yield _gauge(
        "sluice_group_forgotten",
        "Whether the group holds nothing back any more, as nothing has read with it for long.",
        [(one, group.is_forgotten) for one, group in found],
    )
    yield _counter(
        "sluice_group_dead_letters_dropped",
        "Dead letters dropped beyond their limits.",
        [(one, group.dead_dropped) for one, group in found],
    )
    yield _counter(
        "sluice_group_spilled_entries",
        "Entries removed before the group had read them.",
        [(one, group.spilled) for one, group in found],
    )
    done = [(_SYSTEM | {"messaging_operation_name": "ack", "error_type": ""} | one, group.done) for one, group in found]
    failed = [
        (_SYSTEM | {"messaging_operation_name": "dead_letter", "error_type": "dead_letter"} | one, group.failed)
        for one, group in found
    ]
    yield _counter(
        "messaging_client_consumed_messages",
        "Entries that the group is done with: acknowledged, or dead letters.",
        [*done, *failed],
    )


def _of_inlets(inlets: Iterable[InletCounts]) -> Iterator[Metric]:
    ticks: dict[tuple[str, str, str], int] = {}
    entries: dict[tuple[str, str], int] = {}
    for each in inlets:  # with several sets of parameters, an inlet has several beats
        for outcome in _OUTCOMES:
            who = each.inlet, each.topic, outcome
            ticks[who] = ticks.get(who, 0) + each.totals.get(outcome, 0)
        entries[each.inlet, each.topic] = entries.get((each.inlet, each.topic), 0) + each.totals.get("entries", 0)
    yield _counter(
        "sluice_inlet_ticks",
        "Ticks of the inlet by outcome: pushed, nothing (to push), missed, failed, lost.",
        [({"inlet": inlet, _TOPIC: topic, "outcome": outcome}, n) for (inlet, topic, outcome), n in ticks.items()],
    )
    yield _counter(
        "sluice_inlet_entries",
        "Entries that the inlet has pushed.",
        [({"inlet": inlet, _TOPIC: topic}, n) for (inlet, topic), n in entries.items()],
    )


def _gauge(name: str, text: str, rows: Iterable[tuple[dict[str, str], float | None]]) -> Metric:
    return _filled(GaugeMetricFamily, name, text, rows)


def _counter(name: str, text: str, rows: Iterable[tuple[dict[str, str], float | None]]) -> Metric:
    return _filled(CounterMetricFamily, name, text, rows)


def _filled(
    kind: type[CounterMetricFamily | GaugeMetricFamily],
    name: str,
    text: str,
    rows: Iterable[tuple[dict[str, str], float | None]],
) -> Metric:
    known = [(labels, float(value)) for labels, value in rows if value is not None]
    family = kind(name, text, labels=list(known[0][0]) if known else [])
    for labels, value in known:
        family.add_metric(list(labels.values()), value)
    return family
