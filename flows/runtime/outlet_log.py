"""Logs what an outlet has done, with its latest result, at most once a minute."""

import logging
import time
from typing import Any

from flows.runtime.watched_outlet import WatchedOutlet
from tasks.base.plain_text import one_line
from tasks.base.shell import sluice_command
from tasks.codec.values import is_pandas

__all__ = ["OutletLog"]

_LINE_SECONDS = 60.0  # between two lines
_FIRST_LINE_SECONDS = 10.0  # after which the first line is written even without a result
_SHOWN_ROWS, _CELL_WIDTH, _TEXT_WIDTH = 10, 60, 1_000


class OutletLog:
    """The lines of an outlet in its run's log. The watch's thread uses it."""

    def __init__(self, outlet: WatchedOutlet, log: logging.Logger | logging.LoggerAdapter[Any]) -> None:
        self._outlet = outlet
        self._log = log
        self._logged: tuple[int, int] | None = None
        self._logged_result: Any = None
        self._next = time.monotonic() + _FIRST_LINE_SECONDS

    def write(self, *, is_last: bool) -> None:
        """Log the counts and the latest result if a line is due: the first one at the first result, later ones each minute.

        The line is a warning if a node has failed since the last line.
        """
        result, now = self._outlet.result, time.monotonic()
        is_first = self._logged is None and (result is not None or is_last)
        if not self._outlet.followed or (now < self._next and not is_first):
            return
        if self._logged != (counts := self._outlet.counts):
            has_failed = counts[1] > (self._logged[1] if self._logged else 0)
            shown = "" if result is self._logged_result else f"; the latest result\n{_shown(result)}"
            level, where = (logging.WARNING, self._where_failures_are()) if has_failed else (logging.INFO, "")
            self._log.log(level, "%s: %s%s%s", self._outlet.name, self._outlet.sentence(), where, shown)
            self._logged, self._logged_result, self._next = counts, result, now + _LINE_SECONDS

    def _where_failures_are(self) -> str:
        outlet = self._outlet
        if not outlet.sources or outlet.sources[0].on_error == "stop":
            return ""  # failed entries stay pending
        commands = [sluice_command("dead", topic, outlet.group) for topic in outlet.topics]
        return f"; what failed: {', '.join(f'`{command}`' for command in commands)}"


def _shown(value: Any) -> str:
    """Return a result as a few lines of text."""
    if is_pandas(value, "DataFrame"):
        return (
            value.head(_SHOWN_ROWS).to_string(max_cols=12, max_colwidth=_CELL_WIDTH)
            + f"\n[{len(value)} rows x {len(value.columns)} columns]"
        )
    return one_line(repr(value), _TEXT_WIDTH)
