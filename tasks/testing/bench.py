"""The bench of the test kit: runs a pipeline or a pump step by step on fakeredis, with a virtual clock."""

import contextlib
import functools
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, NamedTuple, Self

import fakeredis
import redis
from streamz import Stream
from tornado.ioloop import IOLoop

from tasks.base.ids import id_numbers
from tasks.base.loop_thread import OwnLoop, outside_of_loops
from tasks.checks import check_number, seconds
from tasks.codec import decode_fields, encode_fields
from tasks.errors import PoisonEntryError, SettingsError
from tasks.nodes.from_redis import from_redis
from tasks.pump.returned import as_entries
from tasks.reservoir import Reservoir
from tasks.reservoir.entry import NODE_FIELD, Entry, with_time
from tasks.reservoir.folding import streams_of
from tasks.reservoir.groups import groups_of
from tasks.reservoir.keys import dead_topic
from tasks.reservoir.partitions import declared, partition_topic
from tasks.reservoir.splitting import split
from tasks.state.inspection import exported
from tasks.testing.simulation import SimulatedRun
from tasks.testing.strategies import Pushed, entries, frames, values

__all__ = ["Bench", "Dead", "Pushed", "drain", "entries", "fake_redis", "frames", "pumped", "values"]

Pushable = Mapping[str, Any] | Mapping[bytes, bytes]

Letters = defaultdict[tuple[str, str], list[Mapping[bytes, bytes]]]
"""Dead letters by the topic and the id of their entries."""


class Dead(NamedTuple):
    """A dead letter: what was pushed, the node that raised, and what it raised, as its `repr`.

    entry   the entry that was pushed; of a letter with rows of a frame, these as {"rows": frame}
    """

    entry: Pushable
    node: str
    exception: str


def drain(
    build: Callable[..., Any],
    pushed: Iterable[Pushable],
    *,
    crash_after: int | None = None,
    unacknowledged: int = 1,
    every: str | float | timedelta | None = None,
    **bench: Any,
) -> "Bench":
    """Push entries, run a pipeline on them until it is at rest, stop it, and return the bench with the outcome.

    build        a function of a stream, as under `@outlet`: an outlet's own is its `build`
    pushed       the entries: mappings, or those that `entries` draws
    crash_after  kill the pipeline after this many entries, and start another one: see `Bench.crash`
    unacknowledged  how many of these entries it had not acknowledged
    every        the time between two pushes on the pipeline's clock; by default all entries are pushed at the start
    bench        the pipeline's own parameters, and those of `Bench`; by default it reads the topics of the pushed entries
    raises       PipelineError: it cannot be trusted with acknowledgements, does not come to rest, or, with
                 options={"on_error": "stop"}, raised
    """
    pushed = list(pushed)
    if topics := [one.topic for one in pushed if isinstance(one, Entry)]:
        bench.setdefault("topics", list(dict.fromkeys(topics)))
    with Bench(build, **bench) as made:
        if every is None:
            made.push(*pushed)
            if crash_after is not None:
                made.crash(after=crash_after, unacknowledged=unacknowledged)
        else:
            for n, entry in enumerate(pushed, 1):
                made.push(entry)
                if n == crash_after:
                    made.crash(after=1, unacknowledged=unacknowledged)
                made.advance(every)
        made.drain()
        made.stop()
    return made


def pumped(pump: Callable[..., Any], **parameters: Any) -> list[dict[str, Any]]:
    """Call a pump once; return the entries that it would push, as outlets will see them.

    pump     the plain function: an inlet's own is its `pump`
    raises   PumpError, EncodeError: what it returned is no entry, or cannot be pushed
    """
    with contextlib.closing(OwnLoop()) as loop:
        value = outside_of_loops(lambda: loop.call(functools.partial(pump, **parameters)))
    return [decode_fields(_encoded(entry)) for entry in as_entries(value, name=pump.__name__)]


def fake_redis() -> redis.Redis:
    """Return a client of an empty Redis that lives in this process only."""
    # RESP 2, as in tasks.reservoir.connection; the default of redis-py differs by version.
    return fakeredis.FakeRedis(server=fakeredis.FakeServer(version=(7,)), protocol=2)


class Bench:
    """A pipeline in a consumer group, run step by step: push, step, let time pass, crash or stop it, and inspect it.

    It starts to read at the first step. The first step after a crash or a stop builds the pipeline anew.

    build       a function that builds a pipeline on a stream; the stream that it returns, if any, carries the results
    topics      the topic to read, or several
    group       the consumer group
    into        the topic for the results, if any
    options     further options of `from_redis`, such as {"on_error": "stop", "max_entries": 3}
    client      a client of the Redis to use; by default an empty one in this process. Topics that are partitioned there
                (`tasks.reservoir.partitions.declare`) are read in all partitions, and entries are pushed to that of their key
    parameters  the pipeline's own parameters
    """

    def __init__(
        self,
        build: Callable[..., Any],
        *,
        topics: str | list[str] = "topic",
        group: str = "group",
        into: str | None = None,
        options: Mapping[str, Any] | None = None,
        client: redis.Redis | None = None,
        **parameters: Any,
    ) -> None:
        self.client: Any = client or fake_redis()  # redis-py types replies for all protocols at once
        self.group = group
        self.results: list[Any] = []
        """Results of all runs, in order; those of entries that were processed again after a crash are repeated."""
        self._build, self._parameters = build, parameters
        self._into, self._options = into, dict(options or {})
        self.topics = [topics] if isinstance(topics, str) else list(topics)
        self._pushed: dict[tuple[str, str], Pushable] = {}
        self._run: SimulatedRun | None = None

    @property
    def acked(self) -> list[Pushable]:
        """Entries that are acknowledged and no dead letters, as the pushed objects, in push order."""
        _, letters = self._dead()
        left = {*self._pending(), *self._unread(), *letters}
        return [entry for origin, entry in self._pushed.items() if origin not in left]

    @property
    def pending(self) -> list[Pushable]:
        """Delivered entries without an acknowledgement, in push order: in work, held by a window, or in flight at a crash."""
        return self._of(self._pending())

    @property
    def unread(self) -> list[Pushable]:
        """Entries that were not delivered yet, in push order."""
        return self._of(self._unread())

    @property
    def dead(self) -> list[Dead]:
        """The dead letters, in the order in which their entries were pushed: those of parts of entries first."""
        parts, letters = self._dead()
        return [
            Dead(_part(letter) if NODE_FIELD in letter else entry, *(letter[name].decode() for name in _ABOUT))
            for origin, entry in self._pushed.items()
            for letter in [*parts.get(origin, ()), *letters.get(origin, ())]
        ]

    @property
    def state(self) -> dict[str, Any]:
        """What is stored of each node that keeps a state, by name: the state, or a dict of its parts, such as keys.

        Of a `keyed_state`, these are for each key the time of its last element in ms, 0 without `expire`, and its state; of a
        window or join, its elements and how they are arranged.
        """
        return {node: _readable(fields) for node, fields in exported(self.client, self.group).items()}

    def entries(self, topic: str) -> list[Entry | PoisonEntryError]:
        """Return the entries of a topic, such as that of the results or the dead letters, oldest first."""
        return Reservoir(self.client).peek(topic, 1_000_000)

    def push(self, *pushed: Pushable) -> None:
        """Push entries, in order.

        pushed    mappings of fields go to the first of the topics; an `Entry`, with the id it has, to its own. A mapping of
                  bytes to bytes is pushed unencoded, as other programs push
        raises    EncodeError; SettingsError: a topic that it does not read, or an id that is not above the earlier ones
        """
        encoded = [(entry, *part) for entry in pushed for part in self._encoded_parts(entry)]
        with self.client.pipeline() as pipe:
            for _, topic, id_, raw in encoded:
                pipe.xadd(topic, raw, id=id_)
            try:
                ids = pipe.execute() if encoded else []
            except redis.ResponseError as error:
                msg = f"expected entries whose ids are above those of their topic, got another ({error}); give mappings, which get an id"
                raise SettingsError(msg) from error
        for (entry, topic, _, _), id_ in zip(encoded, ids, strict=True):
            self._pushed[topic, id_.decode()] = entry

    def step(self) -> int:
        """Read once, process the entries and acknowledge the finished ones; return the number of entries read.

        raises    PipelineError: the pipeline raised, and on_error is 'stop'
        """
        simulated = self._alive()
        return simulated.run(simulated.source.step())

    def advance(self, duration: str | float | timedelta) -> None:
        """Advance the pipeline's clock, and process the entries and timers of that time."""
        simulated = self._alive()
        simulated.run(simulated.advance(seconds(duration)))

    def drain(self) -> None:
        """Process all entries until only new ones could change anything, however much time that takes.

        A node of your own that holds entries for a time is waited for if its attribute `interval` has the seconds; else use
        `advance`.

        raises    PipelineError: it does not come to rest within a day of its clock; and as `step`
        """
        simulated = self._alive()
        simulated.run(simulated.come_to_rest())

    def crash(self, *, after: int = 0, unacknowledged: int = 1) -> None:
        """Kill the run and let its lease expire: at the next step, a successor gets the pending entries, first and in order.

        after            process this many more entries before; later entries were read ahead, so they are delivered twice
        unacknowledged   how many of these had not been acknowledged, so that they are processed twice. Where the pipeline keeps
                         a state, the successor continues with the state before them. With 0, the process dies between two
                         entries: all that it has processed is stored
        """
        check_number(unacknowledged, least=0, name="unacknowledged")
        simulated = self._alive()
        simulated.run(simulated.emit_unacknowledged(after, unacknowledged))
        self._run = None
        simulated.kill()

    def stop(self) -> None:
        """Stop the run, as a cancellation in the UI does: acknowledge finished entries and give back the others."""
        if self._run is not None:
            simulated, self._run = self._run, None
            with contextlib.closing(simulated):
                simulated.run(simulated.leave())

    def close(self) -> None:
        """Close the loop. Results and entries can still be inspected."""
        if self._run is not None:
            self._run.close()
            self._run = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        counts = {name: len(getattr(self, name)) for name in ("results", "acked", "pending", "dead", "unread")}
        return f"Bench({', '.join(f'{n} {name}' for name, n in counts.items())})"

    def _alive(self) -> SimulatedRun:
        if self._run is None:
            self._run = SimulatedRun(self._source)
        return self._run

    def _source(self) -> tuple[from_redis, Any]:
        """Return a source with the pipeline on it, and its result, which keeps the nodes alive: streamz holds them weakly."""
        source = from_redis(
            self.topics,
            group=self.group,
            client=self.client,
            loop=IOLoop.current(),
            asynchronous=True,
            **self._options,
        )
        result = self._build(source, **self._parameters)
        if isinstance(result, Stream):
            result.sink(self.results.append, stream_name="results")
            if self._into:
                result.to_redis(self._into)
        return source, result

    def _encoded_parts(self, entry: Pushable) -> Iterator[tuple[str, str, Mapping[bytes, bytes]]]:
        """Yield the stream, the id and the encoded fields of an entry; of its parts, if its topic is partitioned."""
        topic, id_ = (entry.topic, entry.id) if isinstance(entry, Entry) else (self.topics[0], "*")
        if topic not in (*self.topics, *self._streams()):
            msg = (
                f"expected entries of the topics that are read, {self.topics}, got one of {topic!r}; pass topics=[...]"
            )
            raise SettingsError(msg)
        is_raw = bool(entry) and all(isinstance(part, bytes) for pair in entry.items() for part in pair)
        time_ms = entry.own_time_ms if isinstance(entry, Entry) else None
        by = None if is_raw else declared(self.client, topic)
        for n, part in [(0, entry)] if by is None else split(entry, by):
            stream = topic if by is None else partition_topic(topic, n)
            yield stream, id_, dict(part) if is_raw else with_time(_encoded(part), time_ms)  # type: ignore[misc]

    def _streams(self) -> list[str]:
        return [stream for topic in self.topics for stream in streams_of(self.client, topic)]

    def _of(self, origins: Iterable[tuple[str, str]]) -> list[Pushable]:
        among = set(origins)
        return [entry for origin, entry in self._pushed.items() if origin in among]

    def _groups(self) -> Iterator[tuple[str, Any]]:
        for topic in self._streams():
            if group := groups_of(self.client, topic).get(self.group):
                yield topic, group

    def _pending(self) -> Iterator[tuple[str, str]]:
        for topic, group in self._groups():
            if group["pending"]:
                found = self.client.xpending_range(topic, self.group, "-", "+", group["pending"])
                yield from ((topic, one["message_id"].decode()) for one in found)

    def _unread(self) -> Iterator[tuple[str, str]]:
        read = {topic: id_numbers(group["last-delivered-id"].decode()) for topic, group in self._groups()}
        for topic, id_ in self._pushed:
            if topic not in read or id_numbers(id_) > read[topic]:
                yield topic, id_

    def _dead(self) -> tuple[Letters, Letters]:
        """Return the dead letters of parts of entries, and those of whole entries."""
        parts: Letters = defaultdict(list)
        letters: Letters = defaultdict(list)
        for topic in self._streams():
            for _, raw in self.client.xrange(dead_topic(topic, self.group)):
                of = parts if NODE_FIELD in raw else letters
                of[raw[b"dead:topic"].decode(), raw[b"dead:id"].decode()].append(raw)
        return parts, letters


_ABOUT = (b"dead:node", b"dead:exception")


def _part(letter: Mapping[bytes, bytes]) -> dict[str, Any]:
    """Return the part of an entry in a dead letter."""
    return decode_fields(dict(itertools.takewhile(lambda field: field[0] != NODE_FIELD, letter.items())))


def _readable(fields: Mapping[Any, Any]) -> Any:
    return fields[""] if list(fields) == [""] else dict(fields)


def _encoded(entry: Any) -> dict[bytes, bytes]:
    """Return an entry as an inlet pushes it: frames of objects after `infer_objects()`."""
    return encode_fields(entry, on_inferred=lambda: None)
