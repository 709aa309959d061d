"""The streamz sink `to_parquet`: entries into a Parquet dataset, acknowledged when they are there for good."""

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

    An entry is acknowledged when its files are on the disk for good, so a crash at any moment loses none. Each row
    is in the dataset once, also when entries are redelivered or the group is rewound: entries that the files have
    are left out, and no file is replaced. Writers of one dataset take turns, by a lock on `<folder>/.lock`.

    While the disk refuses (full, away) it tries again for ever; what it holds stays pending, and when it holds
    what makes a file, it takes no more. An entry that cannot be written as Parquet fails alone, and the others'
    file is written. A file in the dataset that cannot be read is named in the log, and entries are written beside it.

    All files can be read together ([archive.md](archive.md)): a column name has one type in all of them.

    folder       where the dataset is; made if need be
    max_entries  files are written when so many entries are held,
    max_bytes    or so many bytes of rows,
    max_seconds  or so long after the first of them came
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
        self._lock = threading.RLock()  # flush() may come from another thread than the loop's
        super().__init__(upstream, ensure_io_loop=True, **kwargs)

    def update(
        self,
        x: Any,
        who: Stream | None = None,  # noqa: ARG002 - streamz' signature
        metadata: Metadata = None,
    ) -> Any:
        """Hold an entry; what is returned is done when a full buffer has been written."""
        if not isinstance(x, Entry):
            msg = (
                f"to_parquet: expected entries as from_redis emits them, got {type(x).__name__}; "
                "put it before the nodes that turn them into something else"
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
        """Write what is held, let go of it, and return the files.

        raises    OSError: the disk refuses; everything is held as before
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
        """Write what is held, but for entries that Parquet cannot hold: these have failed then."""
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
        else:  # of a source that is not Sluice's: nothing but the log takes it
            logger.error("%s", error, exc_info=error)

    def _refusal(self, rows: list[Rows]) -> Exception | None:
        try:
            check(self.folder, rows)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - it is the entry's, whatever it is
            one = rows[0]
            msg = (
                f"topic {one.topic!r} entry {one.id}: expected rows that Parquet can hold, got others; it is in no file"
            )
            refusal = EncodeError(msg)
            refusal.__cause__ = error
            return refusal
        return None

    def before_stop(self) -> bool:
        """Write what is held, so that a stop leaves nothing of it to the next run; return whether that succeeded."""
        return self._try_flush(0)

    def destroy(self) -> None:
        """Write what is held and leave the graph."""
        self.flush()
        super().destroy()

    async def _flush_until_done(self) -> None:
        """Write what is held. The source waits for this, so that nothing more comes until it is done."""
        backoff = Backoff(first=1.0, longest=_MAX_PAUSE)
        while True:
            pause = backoff.next()
            if self._try_flush(pause):
                return
            await asyncio.sleep(pause)

    def _try_flush(self, pause: float) -> bool:
        try:
            self.flush()
        except Exception as error:  # noqa: BLE001 - whatever it is, what is held must be tried again
            why = getattr(error, "strerror", None) or error_line(error)
            self._warn(
                f"entries cannot be written to {self.folder}; they stay pending",
                detail=f"{len(self._held)} ({why}), tried again in {pause:g} s",
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
