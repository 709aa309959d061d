"""Live quotes of the Chinese stock market from Sina, through easyquotation (the extra `quotes`)."""

import contextlib
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas as pd

from tasks.errors import SettingsError, UnavailableError
from tasks.feeds.exchange import COLUMNS

__all__ = ["fetch"]

_BOARDS = ("all", "sh", "sz", "bj")
# All requests are sent at once; Sina answers each within some tenths of a second.
_TIMEOUT = 5.0


def fetch(
    board: str = "all",
    *,
    codes: Sequence[str] | None = None,
    url: str | None = None,
    timeout: float = _TIMEOUT,
) -> pd.DataFrame:
    """Return the current quotes: a row per code, the columns of `tasks.feeds.exchange.COLUMNS`, the code as index.

    Codes that Sina does not list, or whose quote cannot be read, are left out.

    board    'all', 'sh' (Shanghai), 'sz' (Shenzhen) or 'bj' (Beijing)
    codes    six digits each; by default the 5,400 shares in the list that comes with easyquotation
    url      address of a server to use instead of Sina, up to the path
    timeout  seconds to connect, and between two bytes of an answer
    raises   SettingsError: easyquotation is not installed, or no such board or code
             UnavailableError: no answer, or one without a quote
    """
    if board not in _BOARDS:
        msg = f"board: expected one of {', '.join(_BOARDS)}, got {board!r}"
        raise SettingsError(msg)
    if bad := [code for code in codes or () if not re.fullmatch("[0-9]{6}", code)]:
        msg = f"codes: expected six digits each, got {bad[0]!r}"
        raise SettingsError(msg)
    feed = _feed(url, timeout)
    import requests  # noqa: PLC0415 - easyquotation brings it
    from easyquotation.helpers import get_stock_type  # noqa: PLC0415

    # Its list contains indices too, prefixed with their board: sh000001 would be taken for the share 000001.
    wanted = [code for code in feed.load_stock_codes() if code.isdigit()] if codes is None else codes
    wanted = [code for code in wanted if board in ("all", get_stock_type(code))]
    if not wanted:
        msg = f"codes: expected at least one of board {board!r}, got none"
        raise SettingsError(msg)
    with contextlib.closing(feed._session):  # it has no close() of its own
        try:
            found = feed.stocks(wanted)
        except (requests.RequestException, ValueError) as error:
            msg = f"Sina gives no quotes ({_reason(error)}); use feed='simulated' where there is no network"
            raise UnavailableError(msg) from error
    if not found:
        msg = f"expected quotes of {len(wanted)} codes from Sina, got an answer without any; nothing was returned"
        raise UnavailableError(msg)
    return pd.DataFrame(list(found.values()), index=pd.Index(found, name="code"), columns=COLUMNS)


def _feed(url: str | None, timeout: float) -> Any:
    try:
        from easyquotation.sina import Sina  # noqa: PLC0415 - an extra
    except ImportError as error:
        msg = (
            "live quotes need the package easyquotation, which is not installed; "
            "run pip install -e '.[quotes]', or use feed='simulated'"
        )
        raise SettingsError(msg) from error

    class Feed(Sina):
        @property
        def stock_api(self) -> str:
            address = super().stock_api
            return address if url is None else url + address[address.index("/rn=") :]

        def _fetch_stock_data(self, stock_list: list[str]) -> list[str]:
            """Return the pages, with no thread left behind.

            easyquotation 0.7.7 closes a `multiprocessing.pool.ThreadPool` and drops it. If a garbage collection starts in
            the pool's own thread, the pool's finalizer waits for that thread for ever, and nothing is collected after that.
            """
            with ThreadPoolExecutor(len(stock_list)) as pool:
                return list(pool.map(self.get_stocks_by_range, stock_list))

        def get_stocks_by_range(self, params: str) -> str:
            """Return a page of quotes, with a timeout, a check of the status, and the right encoding, which the package lacks."""
            headers = self._get_headers()
            response = self._session.get(self.stock_api + params, headers=headers, timeout=timeout)
            response.raise_for_status()
            response.encoding = "gb18030"
            return response.text

    return Feed()


def _reason(error: Exception) -> str:
    """Return the reason of a failed request without its address, which is 800 codes long."""
    response = getattr(error, "response", None)
    return f"HTTP {response.status_code}" if response is not None else type(error).__name__
