"""The options of `@inlet`: what each means, its default, and its check."""

from dataclasses import dataclass, field
from typing import get_args

from tasks.checks import check_choice, check_number, seconds
from tasks.codec.values import COMPRESSIONS, Compression
from tasks.errors import SettingsError
from tasks.pump.call_limit import CallLimit
from tasks.pump.calls import check_threads
from tasks.pump.failing import WhenFailing
from tasks.reservoir.keep import DEFAULT_BACKLOG, DEFAULT_KEEP, BacklogLimits, Keep, WhenFull
from tasks.reservoir.partitions import Partitioning
from tasks.reservoir.topic_names import check_topic

__all__ = ["InletOptions"]

MAX_EVERY_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class InletOptions:
    """Options of `@inlet` as users write them, checked and parsed on construction.

    raises    SettingsError: a bad name or duration, or options that contradict each other

    Args:
        topic: Topic to push to.
        every: Time between ticks, such as '500ms' or '5s', at most 60s. If empty, each run pumps and pushes once.
        threads: Maximum number of pump calls at once. With 0, one call at a time, in the run's own thread.
        timeout: Time after which a pump call counts as failed; an async call is cancelled then. Requires threads.
        window: How long a run pumps if no later run relieves it. Must be longer than the schedule's interval.
        keep: Limits on what the topic keeps - entries, age and size, such as 4000 or 4000, 1h, 500MB. All inlets of a topic
            must declare the same limits.
        partitions: Number of streams that the topic consists of, at most 256. All inlets of a topic must declare the same. If empty,
            the topic is one stream.
        key: Field by which entries are distributed over the partitions, or column by which the rows of DataFrames are. Entries of a
            key stay in order.
        when_full: What happens to entries beyond these limits that a group has not read - spill, they are dropped and
            counted; wait, ticks are missed until the group has caught up.
        compression: Compression of DataFrames - lz4, zstd or empty.
        max_failures: Number of consecutive failed ticks after which the pump is called less often, at least every 30 s, until
            it works again.
        when_failing: What the run does then - retry, it continues to its end and fails if it pushed nothing at all; fail, it
            fails at once.
        max_waiting: Limits on what waits in memory during a Redis outage - entries and size, such as 1000 or 1000, 10MB.
            Beyond them, ticks are missed.
        fresh_within: Maximum age of the inlet's newest entry, such as 1min, beyond which an alarm is raised. If empty, there is no
            such alarm.
        only_if_changed: Push only entries that differ from those of the last push. True compares whole entries, the name of a
            field only that one.
        limit: Maximum number of calls of the source within a duration, such as 100/min. Further ticks are missed, and counted.
        limit_name: Name of the limit. Inlets with the same name share it, on all machines. If empty, the inlet's own.
        catch_up: How far back missed ticks are pumped late, such as 1h, each with its own time. If empty, they stay missed.
    """

    topic: str
    every: str | None = "1s"
    threads: int = 0
    timeout: str | None = None
    window: str = "25min"
    keep: int | str = DEFAULT_KEEP
    partitions: int | None = None
    key: str | None = None
    when_full: WhenFull = "spill"
    compression: Compression | None = None
    max_failures: int = 10
    when_failing: WhenFailing = "retry"
    max_waiting: int | str = DEFAULT_BACKLOG
    fresh_within: str | None = None
    only_if_changed: bool | str = False
    limit: str | None = None
    limit_name: str | None = None
    catch_up: str | None = None

    # Parsed from the options above.
    every_seconds: float | None = field(init=False, repr=False, compare=False)
    timeout_seconds: float | None = field(init=False, repr=False, compare=False)
    window_seconds: float = field(init=False, repr=False, compare=False)
    fresh_seconds: float | None = field(init=False, repr=False, compare=False)
    catch_up_seconds: float = field(init=False, repr=False, compare=False)
    kept: Keep = field(init=False, repr=False, compare=False)
    backlog: BacklogLimits = field(init=False, repr=False, compare=False)
    by: Partitioning | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check every option, and parse those that are text."""
        check_topic(self.topic)
        parsed = {
            "kept": Keep.of(self.keep, self.when_full),
            "by": Partitioning.of(self.partitions, self.key or None),
            "backlog": BacklogLimits.of(self.max_waiting),
            "window_seconds": seconds(self.window, name="window"),
            "timeout_seconds": seconds(self.timeout, name="timeout") if self.timeout else None,
            "catch_up_seconds": seconds(self.catch_up, name="catch_up") if self.catch_up else 0.0,
            "fresh_seconds": seconds(self.fresh_within, name="fresh_within") if self.fresh_within else None,
            "every_seconds": None if self.every in (None, "") else seconds(self.every, name="every"),
        }
        for name, value in parsed.items():
            object.__setattr__(self, name, value)
        check_number(self.max_failures, least=1, name="max_failures")
        check_choice(self.when_failing, get_args(WhenFailing), name="when_failing")
        check_choice(self.compression, COMPRESSIONS, name="compression")
        if not isinstance(self.only_if_changed, bool | str) or self.only_if_changed == "":
            msg = f"only_if_changed: expected True, False or the name of a field, got {self.only_if_changed!r}"
            raise SettingsError(msg)
        self._check_grid()

    def call_limit(self, name: str) -> CallLimit | None:
        """Return the limit of calls of the inlet of this name, if any; raises SettingsError."""
        if not self.limit:
            if self.limit_name:
                msg = f"inlet {name!r}: expected a limit with limit_name={self.limit_name!r}, got none; write limit='100/min'"
                raise SettingsError(msg)
            return None
        return CallLimit.of(self.limit, self.limit_name or name)

    def check_remembers(self, name: str, *, has_cursor: bool) -> bool:
        """Return whether the inlet remembers anything; raises SettingsError if its calls could overlap then."""
        remembers = has_cursor or self.only_if_changed is not False
        if remembers and self.threads > 1:
            what = "a cursor" if has_cursor else "only_if_changed"
            msg = f"inlet {name!r}: expected threads=0 or 1 with {what}, because each call needs what the one before has stored, got {self.threads}"
            raise SettingsError(msg)
        return remembers

    def _check_grid(self) -> None:
        check_threads(self.threads, self.timeout_seconds if self.every_seconds else None)
        if self.every_seconds is None:
            if self.catch_up:
                msg = "catch_up: expected a grid of ticks, got every=None; runs without one have no ticks to catch up"
                raise SettingsError(msg)
            return
        if self.every_seconds > MAX_EVERY_SECONDS:
            msg = (
                f"every: expected at most {MAX_EVERY_SECONDS:g} s between the ticks of a run, got {self.every!r}; "
                "use every=None and a schedule"
            )
            raise SettingsError(msg)
        if self.window_seconds < self.every_seconds:
            msg = f"window: expected at least one tick ({self.every}) of time, got {self.window!r}"
            raise SettingsError(msg)
