"""The options of `@outlet`: what each means, its default, and its check."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pydantic.json_schema import SkipJsonSchema

from tasks.checks import check_choice, check_field, check_group, check_number, group_end, group_start, seconds
from tasks.codec.decoding import DecodeFunction, Decoding, Frames
from tasks.codec.values import COMPRESSIONS, Compression
from tasks.errors import SettingsError
from tasks.group.membership import LEAST_LEASE
from tasks.nodes.source_run import OnError
from tasks.pipeline.retry import Retry
from tasks.remote.dask_client import check_dask
from tasks.reservoir.keep import DEFAULT_KEEP, Keep, WhenFull
from tasks.reservoir.partitions import Partitioning
from tasks.reservoir.topic_names import check_topic
from tasks.state.bounds import DEFAULT_MAX_STATE, state_bytes

__all__ = ["OutletOptions"]

OWN = "function"
DecodeChoice = Literal["auto", "text", "bytes", "json", "function"]


class OwnDecode(str):
    """The word 'function', as forms and runs have it, with the decode function of the outlet's code."""

    __slots__ = ("function",)
    function: DecodeFunction

    @classmethod
    def of(cls, decode: Any) -> Any:
        """Return a decode function as that word; a word as it is."""
        if not callable(decode):
            return decode
        made = cls(OWN)
        made.function = decode
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class OutletOptions:
    """Options of `@outlet` as users write them, checked and parsed on construction.

    raises    SettingsError: a bad name or duration, or options that contradict each other

    Args:
        topics: Topic to read, or several.
        group: Consumer group. Each group sees every entry; the runs of one group share them.
        into: Topic that the results are pushed to. If empty, they are not pushed.
        into_field: Name of the field that holds a result that is neither a mapping nor a record. If empty, the topic's name.
        into_keep: Limits on what that topic keeps - entries, age and size, such as 4000 or 4000, 1h, 500MB. All outlets and
            inlets that push to a topic must declare the same limits.
        into_partitions: Number of streams that this topic consists of, at most 256. All inlets and outlets that push to a topic must
            declare the same. If empty, the topic is one stream.
        into_key: Field by which results are distributed over the partitions, or column by which the rows of DataFrames are. Results
            of a key stay in order.
        into_when_full: What happens to entries beyond these limits that a group has not read - spill, they are dropped and
            counted; wait, this outlet waits until the group has caught up.
        into_compression: Compression of DataFrames in the results - lz4, zstd or empty.
        start_from: Where a new group begins - beginning, new, an ISO time or an entry id.
        until: Where a replay ends, inclusive - now, an ISO time or an entry id. The run then ends by itself once it has
            processed what it read; entries that windows still hold stay pending. If empty, it does not end by itself.
        drop_group: Delete the group when `until` is reached, including the entries that windows still hold - for a replay with
            a group of its own, so that the next replay can use that group anew. Dead letters stay.
        run_for: How long to run, such as '10min'. If empty, until the run is stopped.
        on_error: What happens to an entry on which the pipeline raises - dead_letter, it moves to the dead letters and the
            stream continues; stop, it stays pending and the run fails.
        retry: Pauses after which the failed call of a map, starmap, map_async, sink or to_sink is repeated before its entry fails,
            such as '1s, 5s, 30s'. A node may have its own. If empty, an entry fails at once.
        hold: Repeat the last of these pauses for as long as the call fails, instead of failing the entry.
        overtake: Let later entries pass a node in which an entry is tried again. Without it, they wait.
        max_deliveries: Number of deliveries, each ended by a crash of the run, after which an entry moves to the dead letters.
        lease: How long a run may be silent before its entries go to another run.
        decode: How fields become values - auto, each by its first bytes; text, bytes or json, every field; function, the
            decode function that the outlet's code gives.
        frames: What a pipeline gets for every frame - pandas, polars, or arrow for pyarrow Tables.
        keep_state: Whether sums and other states of the pipeline survive restarts and crashes. Then one run of the group reads at
            a time. Without it, they begin anew with each run.
        max_state: The largest size of these states, such as '64MB'. The run fails when they grow beyond.
        dask: Where `scatter` sends elements - the address of a Dask scheduler, or local, a worker for each core that runs as
            long as the outlet. If empty, the pipeline uses no Dask.
        stall_after: How long entries in work may make no progress before the outlet is reported as stalled.
    """

    topics: str | list[str]
    group: str
    into: str | None = None
    into_field: str | None = None
    into_keep: int | str = DEFAULT_KEEP
    into_partitions: int | None = None
    into_key: str | None = None
    into_when_full: WhenFull = "spill"
    into_compression: Compression | None = None
    start_from: str = "beginning"
    until: str | None = None
    drop_group: bool = False
    run_for: str | None = None
    on_error: OnError = "dead_letter"
    retry: str | None = None
    hold: bool = False
    overtake: bool = False
    max_deliveries: int = 5
    lease: str = "10s"
    decode: DecodeChoice | SkipJsonSchema[DecodeFunction] = "auto"
    frames: Frames = "pandas"
    keep_state: bool = True
    max_state: str = DEFAULT_MAX_STATE
    dask: str | None = None
    stall_after: str = "2min"

    # Parsed from the options above.
    into_kept: Keep = field(init=False, repr=False, compare=False)
    into_by: Partitioning | None = field(init=False, repr=False, compare=False)
    topic_names: list[str] = field(init=False, repr=False, compare=False)
    run_for_seconds: float | None = field(init=False, repr=False, compare=False)
    lease_seconds: float = field(init=False, repr=False, compare=False)
    stall_after_seconds: float = field(init=False, repr=False, compare=False)
    decoding: Decoding = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check every option, and parse those that are text."""
        parsed = {
            "into_kept": Keep.of(self.into_keep, self.into_when_full, prefix="into_"),
            "into_by": Partitioning.of(self.into_partitions, self.into_key or None, prefix="into_"),
            "topic_names": self._checked_topics(),
            "run_for_seconds": seconds(self.run_for, name="run_for") if self.run_for else None,
            "lease_seconds": seconds(self.lease, name="lease", least=LEAST_LEASE),
            "stall_after_seconds": seconds(self.stall_after, name="stall_after"),
            "decode": OwnDecode.of(self.decode),
            "decoding": self._decoding(),
        }
        for name, value in parsed.items():
            object.__setattr__(self, name, value)
        check_choice(self.into_compression, COMPRESSIONS, name="into_compression")
        if self.into_field:
            check_field(self.into_field, name="into_field")
        check_group(self.group)
        if self.dask:
            check_dask(self.dask)
        check_choice(self.on_error, get_args(OnError), name="on_error")
        check_number(self.max_deliveries, least=1, name="max_deliveries")
        group_start(self.start_from)
        Retry.of(self.retry, hold=self.hold, overtake=self.overtake)
        state_bytes(self.max_state)
        if self.until:
            group_end(self.until)
        elif self.drop_group:
            msg = "drop_group: expected `until` with it: a run without an end keeps its place in its group"
            raise SettingsError(msg)

    def _decoding(self) -> Decoding:
        decode: Any = getattr(self.decode, "function", self.decode)
        if decode == OWN:
            msg = f"decode: expected a function in the outlet's code for {OWN!r}, found none; write @outlet(..., decode=FUNCTION)"
            raise SettingsError(msg)
        return Decoding(decode=decode, frames=self.frames)

    def _checked_topics(self) -> list[str]:
        topics = [self.topics] if isinstance(self.topics, str) else self.topics
        if not topics or not isinstance(topics, list | tuple) or len({*map(repr, topics)}) < len(topics):
            msg = f"topics: expected the name of a topic, or a list of different ones, got {self.topics!r}"
            raise SettingsError(msg)
        for topic in topics:
            check_topic(topic, derived=True)
        if self.into:
            check_topic(self.into)
        if self.into in topics:
            msg = f"into: {self.into!r} is a topic that the outlet reads; its results would come back to it for ever"
            raise SettingsError(msg)
        return list(topics)
