"""Reading new entries of a group's topics, up to the end of a bounded replay."""

from collections.abc import Mapping

import redis

from tasks.group.membership import Membership
from tasks.group.merging import Merging
from tasks.group.read_ahead import Read, ReadAhead
from tasks.group.read_size import ReadSize
from tasks.group.until import Until

__all__ = ["TopicReader"]


class TopicReader:
    """Reads entries that were never delivered to the group, and merges them.

    merging    receives the entries
    until      where a bounded replay ends, if it is one: nothing after that is read
    is_fenced  whether a read checks the lease in the same step, so that no entry goes to a consumer that was taken for dead
    """

    def __init__(
        self,
        client: redis.Redis,
        membership: Membership,
        merging: Merging,
        size: ReadSize,
        until: Until | None,
        *,
        is_fenced: bool = False,
    ) -> None:
        self._merging = merging
        self._size = size
        self._until = until
        self._reads = ReadAhead(client, membership, is_fenced=is_fenced)

    @property
    def ends(self) -> Mapping[str, str]:
        """The id of the last entry to read, of each topic where it is known by now; empty without `until`."""
        return self._until.ends if self._until else {}

    def end(self, topic: str) -> str:
        """Return the id of the last entry to read of a topic, '+' without `until`."""
        return self._until.end(topic) if self._until else "+"

    def read(self, topics: list[str], block_ms: int) -> None:
        """Read these topics. Waits up to `block_ms` for new entries if none are merged, and never in a bounded replay."""
        count = self._size.of_each(len(topics), besides=len(self._merging))
        if self._until is None:
            block_ms = 0 if self._merging else block_ms
            self._merge(self._reads.read(topics, count, block_ms, timed=self._merging.is_timed))
            return
        for topic in topics:
            read = self._until.read(topic, count)
            self._merge(read)
            if not read.entries and self._until.is_reached(topic):
                self._merging.end(topic)

    def send_ahead(self) -> None:
        """Send the next read now if the last ones left entries behind; `merge_fetched` merges its reply."""
        if self._until is not None or not self._merging.has_more:
            return
        if topics := self._merging.wanted():  # none while a part of the last read is left
            count = self._size.of_each(len(topics), besides=len(self._merging))
            self._reads.send(topics, count, timed=self._merging.is_timed)

    def fetch(self) -> None:
        """Receive the reply to the read that was sent ahead, if there is one. Until then it occupies Redis' memory.

        raises    redis.RedisError: the reply is lost; its entries are pending, or will be at any later time
        """
        self._reads.fetch()

    def merge_fetched(self) -> bool:
        """Merge the reply that was fetched, if there is one; return whether it brought entries."""
        read = self._reads.take()
        if read is None:
            return False
        self._merge(read)
        return bool(read.entries)

    def close(self) -> None:
        """Wait for the read that was sent ahead, so that its entries are pending, and disconnect. Raises nothing."""
        self._reads.close()

    def disconnect(self) -> None:
        """Disconnect without waiting for the read that was sent ahead."""
        self._reads.disconnect()

    def _merge(self, read: Read) -> None:
        """Merge the entries of a read; topics without any are known up to the time of the read."""
        self._merging.clock(read.micros)
        found = {name.decode(): raws for name, raws in read.entries}
        for topic in read.topics:
            raws = found.get(topic, ())
            is_full = len(raws) >= read.count
            self._merging.put(topic, self._size.weigh(raws), is_cut=is_full, is_full=is_full)
