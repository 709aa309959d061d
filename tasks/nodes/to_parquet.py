"""The streamz sink `to_parquet`: writes entries to a Parquet dataset; they are acknowledged when the files are durable."""

import asyncio
import threading
from functools import partial
from pathlib import Path
from typing import Any

from streamz import Stream
from streamz.sinks import Sink

from tasks.archive.dataset import Rows, check, rows_of, write
from tasks.base.backoff import Backoff
from tasks.base.logs import get_logger
from tasks.base.plain_text import error_line
from tasks.base.repeated_warnings import Repeated
from tasks.errors import EncodeError, PipelineError, SettingsError
from tasks.pipeline import trust
from tasks.pipeline.receipts import Metadata
from tasks.reservoir.entry import Entry

__all__ = ["to_parquet"]

logger = get_logger(__name__)

_MAX_PAUSE = 30.0


@partial(trust, keeps=True)
@Stream.register_api()
class to_parquet(Sink):  # noqa: N801 - streamz names nodes like functions
    """Write entries to a Parquet dataset, by topic, kind and day (`tasks.archive.dataset`).

    An entry is acknowledged when its files are durable, so that a crash at any moment loses none. Each row is in the
    dataset once, even if entries are redelivered or the group is rewound: entries that the files contain are skipped, and
    no file is replaced. Writers of one dataset take turns, using a lock on `<folder>/.lock`.

    While the disk refuses writes (full, away), the node keeps trying; held entries stay pending, and once they would fill
    a file, the node takes no more. An entry that cannot be written as Parquet fails alone; the file of the others is
    written. The log names files in the dataset that cannot be read; entries are written to other files.

    All files can be read together ([archive.md](archive.md)): a column name has one type in all of them.

    folder       the folder of the dataset; created if it does not exist
    max_entries  files are written when this many entries are held,
    max_bytes    or this many bytes of rows,
    max_seconds  or this long after the first held entry came
    """

    def __init__(
        self,
        upstream: Stream,
        folder: str | Path,
        *,
        max_entries: int = 1_000,
        max_seconds: float = 60.0,
        max_bytes: int = 64 * 2**20,
        **kwargs: Any,
    ) -> None:
        if max_entries < 1 or not max_seconds > 0 or max_bytes < 1:
            msg = f"expected limits above zero, got {max_entries=}, {max_seconds=}, {max_bytes=}"
            raise SettingsError(msg)
        self.folder = Path(folder).absolute()
        self._max_entries = max_entries
        self._max_seconds = max_seconds
        self._max_bytes = max_bytes
        self._held: list[tuple[list[Rows], Metadata]] = []
        self._bytes = 0
        self._timer: object | None = None
        self._warn = Repeated(logger)
        self._lock = threading.RLock()  # flush() may be called in another thread than the loop's
        super().__init__(upstream, ensure_io_loop=True, **kwargs)

    def update(
        self,
        x: Any,
        who: Stream | None = None,  # noqa: ARG002 - streamz' signature
        metadata: Metadata = None,
    ) -> Any:
        """Hold an entry; if the buffer is full, return an awaitable that writes it."""
        if not isinstance(x, Entry):
            msg = (
                f"to_parquet: expected an entry as from_redis emits it, got {type(x).__name__}; "
                "connect to_parquet before the nodes that change entries"
            )
            raise PipelineError(msg)
        rows = rows_of(x)
        with self._lock:
            self._retain_refs(metadata or [])
            self._held.append((rows, metadata))
            self._bytes += sum(one.table.nbytes for one in rows)
            is_full = len(self._held) >= self._max_entries or self._bytes >= self._max_bytes
        if is_full:
            return self._flush_until_done()
        self._set_timer(self._max_seconds)
        return []

    def flush(self) -> list[Path]:
        """Write the held entries, release them, and return the files. Any thread.

        raises    OSError: the disk refuses; all entries are still held
        """
        with self._lock:
            if not self._held:
                return []
            paths = self._write()
            done, self._held, self._bytes = self._held, [], 0
        for _, metadata in done:
            self._release_refs(metadata or [])
        return paths

    def _write(self) -> list[Path]:
        """Write the held entries, except those that Parquet cannot hold: these fail."""
        try:
            return write(self.folder, _rows(self._held))
        except (OSError, MemoryError):
            raise
        except Exception:
            failed = [(held, error) for held in self._held if (error := self._refusal(held[0]))]
            if not failed:
                raise
            refused = [id(held) for held, _ in failed]
            paths = write(self.folder, _rows([held for held in self._held if id(held) not in refused]))
        for (_, metadata), error in failed:
            self._fail(metadata, error)
        return paths

    def _fail(self, metadata: Metadata, error: Exception) -> None:
        if secured := getattr(self, "secured", None):
            secured.fail(self, metadata, error)
        else:  # not a source of Sluice: only the log shows the error
            logger.error("%s", error, exc_info=error)

    def _refusal(self, rows: list[Rows]) -> Exception | None:
        try:
            check(self.folder, rows)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - any other error is caused by the entry
            one = rows[0]
            msg = f"topic {one.topic!r} entry {one.id}: expected rows that Parquet can hold, got others; the entry is in no file"
            refusal = EncodeError(msg)
            refusal.__cause__ = error
            return refusal
        return None

    def before_stop(self) -> bool:
        """Write the held entries, so that a stop leaves none to the next run; return whether that succeeded."""
        return self._try_flush(0)

    def destroy(self) -> None:
        """Write the held entries and leave the graph."""
        self.flush()
        super().destroy()

    async def _flush_until_done(self) -> None:
        """Write the held entries, trying until it succeeds. The source awaits this, so that no more entries come before."""
        backoff = Backoff(first=1.0, longest=_MAX_PAUSE)
        while True:
            pause = backoff.next()
            if self._try_flush(pause):
                return
            await asyncio.sleep(pause)

    def _try_flush(self, pause: float) -> bool:
        try:
            self.flush()
        except Exception as error:  # noqa: BLE001 - after any error, the entries must be written later
            why = getattr(error, "strerror", None) or error_line(error)
            self._warn(
                f"entries cannot be written to {self.folder}; they stay pending",
                detail=f"{len(self._held)} ({why}), next try in {pause:g} s",
            )
            return False
        return True

    def _set_timer(self, after: float) -> None:
        if self._timer is None:
            assert self.loop is not None  # ensured in __init__
            self._timer = self.loop.call_later(after, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if not self._try_flush(self._max_seconds):
            self._set_timer(self._max_seconds)


def _rows(held: list[tuple[list[Rows], Metadata]]) -> list[Rows]:
    return [one for rows, _ in held for one in rows]
