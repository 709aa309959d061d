"""Limits on a group's dead letters, in number and in bytes, for the scripts that append, replay and discard them.

For each group, the hash `letter_counts` has the number of its letters and their bytes. If that number differs from the length of
the stream, because another client deleted letters or the hash, the letters are measured again: from the newest on, up to the
limits.
"""

from dataclasses import dataclass

__all__ = ["MAX_EXCEPTION", "MAX_TRACEBACK", "DeadLetterLimits", "cut"]

# Maximum characters of a letter's exception and traceback: an exception may repeat the entry, and the traceback the exception.
MAX_EXCEPTION = 2_000
MAX_TRACEBACK = 8_000


@dataclass(frozen=True, slots=True)
class DeadLetterLimits:
    """Limits on a group's dead letters: the newest are kept, and the last one even if it exceeds `max_bytes`.

    max_letters  the maximum number
    max_bytes    the maximum of field names and values together; the limit of the topic if that is less, but at least `min_bytes`
    """

    max_letters: int = 10_000
    max_bytes: int = 64_000_000
    min_bytes: int = 1_000_000


def cut(text: str, longest: int) -> str:
    """Shorten text to about `longest` characters: its beginning and its end.

    >>> cut("a" * 50 + "b" * 50, 20)
    'aaaaaaaaaa ... 80 characters left out ... bbbbbbbbbb'
    """
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]} ... {len(text) - 2 * half:,} characters left out ... {text[-half:]}"
