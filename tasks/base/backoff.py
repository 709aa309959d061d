"""Back-off: pauses between tries that double up to a bound."""

__all__ = ["Backoff", "doubled"]

_MAX_DOUBLINGS = 60  # beyond it, any pause exceeds its bound, and a float would overflow


def doubled(first: float, times: int, *, longest: float) -> float:
    """Return `first` seconds doubled `times` times, at most `longest`.

    >>> [doubled(0.5, times, longest=3.0) for times in range(4)]
    [0.5, 1.0, 2.0, 3.0]
    """
    return min(longest, first * 2.0 ** min(times, _MAX_DOUBLINGS))


class Backoff:
    """The pauses of one retry loop: `first` seconds, then twice as long each time, up to `longest`.

    >>> backoff = Backoff(first=0.5, longest=3.0)
    >>> backoff.next(), backoff.next(), backoff.tries
    (0.5, 1.0, 2)
    >>> backoff.reset()
    >>> backoff.next()
    0.5
    """

    def __init__(self, *, first: float, longest: float) -> None:
        self.tries = 0
        """Number of pauses since the last success."""
        self._first = first
        self._longest = longest

    def next(self) -> float:
        """Return the seconds to pause before the next try."""
        pause = doubled(self._first, self.tries, longest=self._longest)
        self.tries += 1
        return pause

    def reset(self) -> None:
        """Start again with the first pause, after a success."""
        self.tries = 0
