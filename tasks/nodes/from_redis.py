"""The streamz source `Stream.from_redis`: one member of a consumer group, and a pipeline behind it."""

import contextvars
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, get_args

import redis
from streamz import Stream

from tasks.checks import check_choice, check_number, seconds
from tasks.codec.decoding import Decoding, Frames
from tasks.errors import PipelineError
from tasks.group.consumer import Consumer
from tasks.group.membership import LEAST_LEASE, Membership
from tasks.nodes.source_run import OnError, SourceRun
from tasks.nodes.threaded import ThreadedSource
from tasks.pipeline import lifetimes
from tasks.reservoir.connection import adapted, connect
from tasks.settings import redis_url

__all__ = ["from_redis"]


@Stream.register_api(staticmethod)
class from_redis(ThreadedSource):  # noqa: N801 - streamz names nodes like functions
    """Read topics as one member of a consumer group and emit an `Entry` for each.

    At least once; each topic in id order, redelivered entries first. An entry is acknowledged when the
    pipeline is done with it. One that cannot be decoded goes to `<topic>:dead:<group>`, its bytes untouched.

    topics      a topic or several, which are merged by entry id: a replay has the order that live had
    group       the consumer group; made if it does not exist
    url, client  the reservoir; by default what the settings name
    start_from  where a new group begins: 'beginning', 'new', an ISO time or an entry id
    until       where a bounded replay ends: 'now', an ISO time or an entry id, itself included. The source then stops by
                itself, once what it read is done with; what windows still hold stays pending. Default: never
    lease       how long this consumer may be silent before it counts as dead
    max_entries, max_bytes   bounds of what is read at once; up to four reads are in memory, and a fifth is on its way
    batch       emit lists of up to so many entries instead, of what has come by then: none waits for another. If the
                pipeline raises on a list, all of its entries have failed
    frames      as what frames come: 'pandas', 'polars', or 'arrow' for a pyarrow Table
    fuse        do runs of `map`, `filter`... in one call: quicker, and nothing else; False is for doubt
    grace       how long a stop waits for what is in flight
    on_error    what becomes of an entry on which the pipeline raised: 'dead_letter', it is moved to
                `<topic>:dead:<group>` and the stream goes on; 'stop', it stays pending and the source stops
    max_deliveries   how often an entry is delivered at most, each time because its consumer died with it; then
                it is moved to the dead letters
    raises      SettingsError, UnavailableError, PipelineError for a node that is not safe, at the start
    """

    def __init__(
        self,
        topics: str | Sequence[str],
        *,
        group: str,
        url: str | None = None,
        client: redis.Redis | None = None,
        start_from: str = "beginning",
        until: str | None = None,
        lease: str | float | timedelta = 10.0,
        max_entries: int = 256,
        max_bytes: int = 4 * 2**20,
        grace: str | float | timedelta = 20.0,
        on_error: OnError = "dead_letter",
        max_deliveries: int = 5,
        batch: int | None = None,
        frames: Frames = "pandas",
        fuse: bool = True,
        start: bool = False,
        **kwargs: Any,
    ) -> None:
        if batch is not None:
            check_number(batch, least=1, name="batch")
        check_number(max_entries, least=1, name="max_entries")
        check_number(max_bytes, least=1, name="max_bytes")
        check_number(max_deliveries, least=1, name="max_deliveries")
        check_choice(on_error, get_args(OnError), name="on_error")
        self.on_error: OnError = on_error
        self.topics = [topics] if isinstance(topics, str) else list(topics)
        self.group = group
        self._url = url
        self._client = client and adapted(client)
        self._given_client = self._client
        self._own_clients: list[redis.Redis] = [] if self._client in (client, None) else [self._client]
        self._options = {
            "start_from": start_from,
            "until": until,
            "lease_ttl": seconds(lease, name="lease", least=LEAST_LEASE),
            "max_entries": max(max_entries, batch or 0),
            "max_bytes": max_bytes,
            "max_deliveries": max_deliveries,
            "decoding": Decoding(frames=frames),
        }
        self._grace = seconds(grace, name="grace")
        self._batch, self._fuse = batch, fuse
        super().__init__(start=start, **kwargs)

    @property
    def client(self) -> redis.Redis:
        """A client of the same server, for what the pipeline wants of it; made once."""
        if self._client is None:
            self._client = connect(self._url or redis_url())
            self._own_clients.append(self._client)
        return self._client

    def open(self) -> SourceRun:
        """Get ready to read; `step` wants it first, `start` does it by itself.

        raises    PipelineError: nothing is connected, a node is not safe, or nodes still hold entries of a run before
        """
        if not self.downstreams:
            msg = (
                f"{self!r}: expected a pipeline, found nothing connected: every entry would be acknowledged unseen; end it "
                "in a sink, or keep its last node in a variable (streamz holds nodes weakly)"
            )
            raise PipelineError(msg)
        if isinstance(self._current, SourceRun) and self._current.in_flight:
            msg = (
                f"{self!r}: its nodes still hold {self._current.in_flight} entries of the run before, which are redelivered now "
                "and would be in them twice; build the pipeline anew"
            )
            raise PipelineError(msg)
        # One that repeats a read whose reply was lost would go on with later entries, and say nothing.
        given = self._given_client
        client = adapted(given, retries=0) if given else connect(self._url or redis_url(), retries=0)
        self._own_clients.append(client)
        consumer = Consumer(client, self.topics, self.group, **self._options)
        self._current = run = SourceRun(
            consumer, self, on_error=self.on_error, grace=self._grace, batch=self._batch, fuse=self._fuse
        )
        run.secured.context = contextvars.copy_context()
        self.is_running = True
        lifetimes.begin(self)
        return run

    @property
    def latest_run(self) -> SourceRun:
        """The current run, or the last one if none is under way. Only after `open` or `start`."""
        assert isinstance(self._current, SourceRun)
        return self._current

    async def step(self, block_ms: int = 0) -> int:
        """Read once, emit what came and acknowledge what is done; return how many entries came.

        The source's unit of work, in one thread. `start` does the same, reading ahead in a thread of its own.

        raises    PipelineError: the pipeline raised, and on_error is 'stop'; the entry stays pending
        """
        return await self.latest_run.step(block_ms)

    @property
    def is_through(self) -> bool:
        """Whether everything up to `until` was read."""
        return isinstance(self._current, SourceRun) and self._current.is_through

    def drop_group(self) -> bool:
        """Delete the group on its topics, with what is pending there; return whether it is gone.

        It stays while another consumer of it lives that reads one of these topics. A group of the same name on other topics
        is another group.
        """
        if Membership(self.client, self.group).living(self.topics):
            return False
        for topic in self.topics:
            self.client.xgroup_destroy(topic, self.group)
        self._hang_up()
        return True

    def close(self) -> None:
        """Acknowledge what is done, give back the rest and leave the group; the end of steps, as `stop` of a start."""
        self.latest_run.close()
        self.let_go()

    def let_go(self) -> None:
        """Let go of the graph, and hang up; the source can be started again."""
        super().let_go()
        self._hang_up()
        self._own_clients = [client for client in self._own_clients if client is self._client]

    def _hang_up(self) -> None:
        """Close the connections that nothing uses at the moment; a command opens one anew."""
        for client in self._own_clients:
            client.connection_pool.disconnect(inuse_connections=False)

    def _begin(self) -> SourceRun:
        return self.open()
