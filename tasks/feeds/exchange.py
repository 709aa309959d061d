"""A simulated stock exchange that never closes: its quotes depend only on a seed and the time.

No state passes from one snapshot to the next. Processes with the same seed see the same prices at the same second, so
all runs of an inlet follow one price path. A day runs from midnight to midnight in China.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import lru_cache

import numpy as np
import pandas as pd

from tasks.errors import SettingsError

__all__ = ["COLUMNS", "Exchange"]

LEVELS = range(1, 6)
COLUMNS = [
    *("name", "open", "close", "now", "high", "low", "buy", "sell", "turnover", "volume"),
    *(f"{side}{level}{what}" for side in ("bid", "ask") for level in LEVELS for what in ("_volume", "")),
    *("date", "time"),
]
"""The columns of easyquotation's Sina feed. `turnover` is the day's shares, `volume` the day's yuan."""

# Listed codes: first digits, board, number of codes. 5,000 in all.
_LISTED = (
    *(("600", "sh", 900), ("601", "sh", 250), ("603", "sh", 650), ("688", "sh", 550)),
    *(("000", "sz", 450), ("002", "sz", 850), ("300", "sz", 900), ("301", "sz", 250), ("150", "sz", 100)),
    ("920", "bj", 100),
)
_ALL = sum(n for _, _, n in _LISTED)
_CHINA = timezone(timedelta(hours=8))
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_LIMIT = 0.1
# Price paths are sums of sines with these periods, in seconds. The ratio keeps them out of phase.
_PERIODS = 171.0 * 2.37 ** np.arange(12)

# One stream of random numbers for each purpose.
_PATHS, _DAYS, _MINUTES, _TICKS = range(4)

_Cents = np.ndarray  # prices in hundredths of a yuan, the exchange's tick, as whole float64


@dataclass(frozen=True, slots=True)
class _Day:
    """Constants of one day: price limits, suspended codes, and the shares traded by its end."""

    gap: np.ndarray
    close: _Cents
    lowest: _Cents
    highest: _Cents
    is_suspended: np.ndarray
    has_no_bids: np.ndarray
    shares: np.ndarray
    phase: np.ndarray


class Exchange:
    """A market of `codes` codes, at most 5,000, whose quotes depend only on `seed` and the time.

    A code has the same quotes in an exchange of any size. Prices move in ticks of 0.01 and stay within 10 %
    of the previous close; the day's shares only grow. About 1 % of the codes are suspended (no price) on a
    day and another 1 % have no bids; 6 % of the asks at a time are thin (100 shares).

    The first snapshot of a process computes the day's highs and lows so far, which takes up to 0.3 s; later ones take
    3 ms.
    """

    def __init__(self, seed: int = 0, codes: int = _ALL) -> None:
        if not 1 <= codes <= _ALL:
            msg = f"codes: expected 1 to {_ALL:,} codes, got {codes:,}"
            raise SettingsError(msg)
        if seed < 0:
            msg = f"seed: expected 0 or more, got {seed}"
            raise SettingsError(msg)
        self.seed = seed
        self._rows = np.linspace(0, _ALL - 1, codes).round().astype(int)
        listed = [(f"{first}{number:03}", board) for first, board, n in _LISTED for number in range(n)]
        self._index = pd.Index([listed[row][0] for row in self._rows], name="code")
        self._board = np.array([listed[row][1] for row in self._rows])
        # 'simulated', in the script of Sina's names
        self._names = pd.Series([f"模拟{code}" for code in self._index], index=self._index)
        self._base, self._swing = self._draw_paths()
        self._day: Callable[[int], _Day] = lru_cache(maxsize=2)(self._make_day)
        self._hour: Callable[[int], _Cents] = lru_cache(maxsize=2)(self._make_hour)
        self._range: Callable[[int], tuple[_Cents, _Cents]] = lru_cache(maxsize=48)(self._make_range)

    def snapshot(self, at: datetime | float, *, board: str = "all") -> pd.DataFrame:
        """Return the quotes at a second: a row per code, the columns of `COLUMNS`, the code as index.

        at       an aware datetime, or seconds since the epoch; fractions of a second are dropped
        board    'all', 'sh', 'sz' or 'bj'
        """
        if board not in {"all", *self._board}:
            msg = f"board: expected 'all', 'sh', 'sz' or 'bj', got {board!r}"
            raise SettingsError(msg)
        second = int(at.timestamp() if isinstance(at, datetime) else at)
        local = datetime.fromtimestamp(second, _CHINA)
        frame = pd.DataFrame(self._quotes(second + 8 * _HOUR), index=self._index, copy=False)
        frame["date"], frame["time"] = f"{local:%Y-%m-%d}", f"{local:%H:%M:%S}"
        return frame if board == "all" else frame.loc[self._board == board]

    def _quotes(self, second: int) -> dict[str, pd.Series | np.ndarray]:
        """Return all columns except date and time, at a second of China's clock since the epoch."""
        day = self._day(second // _DAY)
        noise = self._noise(_TICKS, second)
        now = self._prices(second)
        open_, high, low = self._range_until(second, now)
        turnover = self._turnover(day, second)
        book = self._book(day, now, noise)
        traded = {
            "now": now / 100,
            "high": high / 100,
            "low": low / 100,
            "buy": book["bid1"],
            "sell": book["ask1"],
            "turnover": turnover,
            "volume": np.round(turnover * (open_ + day.close) / 200, 2),
            **book,
        }
        return {
            "name": self._names,
            "open": np.where(day.is_suspended, 0, open_ / 100),
            "close": day.close / 100,
            **{name: np.where(day.is_suspended, 0, values) for name, values in traded.items()},
        }

    def _draw_paths(self) -> tuple[_Cents, np.ndarray]:
        """Return the mean price of each code, and its amplitude for each sine and cosine."""
        noise = self._noise(_PATHS, 0)
        base = np.round(100 * np.exp(0.9 + 3.0 * noise.random(_ALL)))
        # Longer periods have larger amplitudes; those of a random walk would grow with the square root.
        volatility = np.exp(np.log(0.012) + 0.5 * noise.standard_normal(_ALL)).clip(0.003, 0.06)
        swing = ((_PERIODS / _DAY) ** 0.35)[:, None] * volatility * base
        swing *= np.minimum(1, 0.6 * base / swing.sum(axis=0))
        phase = 2 * np.pi * noise.random(swing.shape)
        # sin(wt + p) = sin(wt) cos(p) + cos(wt) sin(p): all codes at many times are one product of matrices.
        return base[self._rows], np.vstack([swing * np.cos(phase), swing * np.sin(phase)])[:, self._rows]

    def _noise(self, purpose: int, number: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, purpose, number])

    def _levels(self, times: np.ndarray) -> np.ndarray:
        """Return the prices of the paths at `times` (rows), before gaps, limits and rounding."""
        angles = 2 * np.pi * times[:, None] / _PERIODS
        return self._base + np.hstack([np.sin(angles), np.cos(angles)]) @ self._swing

    def _make_day(self, number: int) -> _Day:
        draw = self._noise(_DAYS, number)
        gap = 1 + 0.004 * draw.standard_normal(_ALL)[self._rows]
        state, phase, log_shares = draw.random(_ALL), draw.random(_ALL), draw.normal(15.5, 1.3, _ALL)
        gap_before = 1 + 0.004 * self._noise(_DAYS, number - 1).standard_normal(_ALL)[self._rows]
        close = np.rint(self._levels(np.array([number * _DAY]))[0] * gap_before)
        return _Day(
            gap=gap,
            close=close,
            lowest=np.ceil(close * (1 - _LIMIT)),
            highest=np.floor(close * (1 + _LIMIT)),
            is_suspended=state[self._rows] < 0.01,  # noqa: PLR2004 - as the class says
            has_no_bids=state[self._rows] > 0.99,  # noqa: PLR2004
            shares=np.exp(log_shares)[self._rows],
            phase=phase[self._rows],
        )

    def _make_hour(self, number: int) -> _Cents:
        """Return the prices at minutes 0 to 60 of an hour, always computed as one block, so that rounding never differs."""
        day = self._day(number * _HOUR // _DAY)
        times = np.arange(_HOUR // _MINUTE + 1) * _MINUTE + number * _HOUR
        return np.rint(self._levels(times) * day.gap).clip(day.lowest, day.highest)

    def _make_range(self, hour: int) -> tuple[_Cents, _Cents]:
        prices = self._hour(hour)
        return prices.max(axis=0), prices.min(axis=0)

    def _prices(self, second: int) -> _Cents:
        """Return the prices at a second, which move monotonically from one minute's price to the next."""
        prices = self._hour(second // _HOUR)
        minute, past = divmod(second % _HOUR, _MINUTE)
        haste = 4 ** self._noise(_MINUTES, second // _MINUTE).uniform(-1, 1, _ALL)[self._rows]
        return np.rint(prices[minute] + (prices[minute + 1] - prices[minute]) * (past / _MINUTE) ** haste)

    def _range_until(self, second: int, now: _Cents) -> tuple[_Cents, _Cents, _Cents]:
        """Return the day's open, high and low so far. Prices are monotonic within a minute, so minutes and `now` suffice."""
        hour, midnight = second // _HOUR, second // _DAY * (_DAY // _HOUR)
        minutes = self._hour(hour)[: second % _HOUR // _MINUTE + 1]
        past = [self._range(h) for h in range(midnight, hour)]
        high = np.maximum.reduce([now, minutes.max(axis=0), *(highest for highest, _ in past)])
        low = np.minimum.reduce([now, minutes.min(axis=0), *(lowest for _, lowest in past)])
        return self._hour(midnight)[0], high, low

    def _turnover(self, day: _Day, second: int) -> np.ndarray:
        """Return the shares traded since midnight. They never decrease, because x - sin x is monotonic."""
        part = second % _DAY / _DAY
        waves = 2 * np.pi * 12
        traded = part - (np.sin(waves * (part + day.phase)) - np.sin(waves * day.phase)) / waves
        return (day.shares * traded / 100).astype(np.int64) * 100

    def _book(self, day: _Day, now: _Cents, noise: np.random.Generator) -> dict[str, np.ndarray]:
        """Return five bids and asks with their shares. The last trade was at the best bid or ask."""
        spread, side, thin, *volumes = noise.random((3 + 2 * len(LEVELS), _ALL))[:, self._rows]
        spread = 1 + np.floor(3 * spread**3)
        bid = np.where(side < 0.5, now, now - spread)  # noqa: PLR2004 - evens
        bid = np.where(now <= day.lowest, now - spread, np.where(now >= day.highest, now, bid))
        book = {}
        for level, volume in zip([*LEVELS, *LEVELS], volumes, strict=True):
            is_bid = f"bid{level}" not in book
            price = bid - (level - 1) if is_bid else bid + spread + (level - 1)
            shares = np.floor(10 ** (1 + 2.5 * volume)) * 100
            if not is_bid and level == 1:
                shares = np.where(thin < 0.06, 100, shares)  # noqa: PLR2004 - as the class says
            empty = (price < day.lowest) | day.has_no_bids if is_bid else price > day.highest
            name = f"{'bid' if is_bid else 'ask'}{level}"
            book[f"{name}_volume"] = np.where(empty, 0, shares).astype(np.int64)
            book[name] = np.where(empty, 0, price) / 100
        return book
