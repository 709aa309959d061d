"""Escapes for text of unknown origin: on one line, below a line, in Markdown, in a Mermaid label.

An entry, an exception, a column or a name on a server can hold line breaks, control characters and markup. Shown
unescaped, it could forge a log line, control a terminal, or put an image into a report.
"""

import re
import string
import traceback
import unicodedata

__all__ = ["below", "error_line", "in_markdown", "in_mermaid", "one_line", "printable", "shortened", "traceback_below"]

_LINE, _ERROR, _FRAME, _TRACEBACK = 2_000, 500, 1_000, 8_000  # characters
_INDENT = "    "
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # Unicode's controls, formats, surrogates, line separators
_SPECIAL = {ord(one): f"\\{one}" for one in r"""\`*_~[]<>&!|#"""}  # special anywhere in a line
# Mermaid decodes '#', a number and ';' into a character after it has parsed the label, which may count as Markdown.
_LABEL = {ord(one): f"#{ord(one)};" for one in string.punctuation}
# Both versions of Prefect's UI turn these into links in any text outside code, after parsing, so that escapes do not help (3.9.1).
_LINKED = re.compile(r"://|www\.|@", re.IGNORECASE)


def shortened(text: str, most: int) -> str:
    """Return text of at most `most` characters, with '...' at the end if characters are missing.

    >>> shortened("abcdef", 6), shortened("abcdefg", 6)
    ('abcdef', 'abc...')
    """
    return text if len(text) <= most else f"{text[: most - 3]}..."


def one_line(value: object, most: int = _LINE) -> str:
    r"""Return a value's text on one line of about `most` characters, with control characters escaped as in Python.

    >>> one_line("a\n\x1b[2J\u202eb"), one_line("x" * 10, 4)
    ('a\\n\\x1b[2J\\u202eb', 'xxxx... (10 characters)')
    """
    text = str(value)
    head = text[: most + 1]
    shown = head if head.isprintable() else "".join(map(_visible, head))
    return shown if len(shown) <= most else f"{shown[:most]}... ({len(text):,} characters)"


def error_line(error: BaseException, most: int = _ERROR) -> str:
    """Return an exception's type and text on one line.

    >>> error_line(ValueError("not this"))
    'ValueError: not this'
    """
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a user's class may raise anything
        text = "(its text cannot be read)"
    return one_line(f"{type(error).__name__}: {text}" if text else type(error).__name__, most)


def below(text: str, most: int = 10 * _LINE) -> str:
    r"""Return text with all lines after the first indented, so that none looks like a line of a log.

    A table, whose first line begins with a space, starts below the first line, to keep its columns aligned.

    >>> below("first\nsecond"), below("only")
    ('first\n    second', 'only')
    """
    if text.isprintable() and len(text) <= most:
        return text
    lines = [one_line(line.expandtabs(), most) for line in text[:most].splitlines()]
    if len(lines) > 1 and lines[0][:1].isspace():
        lines.insert(0, "")
    if len(text) > most:
        lines.append(f"... ({len(text):,} characters)")
    return f"\n{_INDENT}".join(lines)


def traceback_below(error: BaseException) -> str:
    """Return an exception's traceback, indented; only its last 8,000 characters if it is longer."""
    try:
        parts = [part[:_FRAME].splitlines() for part in traceback.TracebackException.from_exception(error).format()]
    except Exception:  # noqa: BLE001 - an exception's own text can raise
        parts = [[error_line(error)]]
    lines = [_INDENT + one_line(line.expandtabs(), _FRAME) for part in parts for line in part]
    room = _TRACEBACK
    for n, line in enumerate(reversed(lines)):
        room -= len(line)
        if room < 0:
            return "\n".join([f"{_INDENT}...", *lines[len(lines) - n :]])
    return "\n".join(lines)


def in_markdown(value: object, most: int = _LINE) -> str:
    r"""Return a value's text for use inside a line of Markdown: plain in both versions of Prefect's UI, one cell in a table.

    Numeric character references would suffice for CommonMark, but version 1 of the UI shows them undecoded (3.9.1).

    >>> in_markdown("a|b <i>"), in_markdown("me@here")
    ('a\\|b \\<i\\>', '`` me@here ``')
    """
    text = one_line(value, most)
    return _as_code(text) if _LINKED.search(text) else text.translate(_SPECIAL)


def _as_code(text: str) -> str:
    """Return text as a code span, whose content no parser interprets."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=1))
    # A table's cell ends at a '|' after an even number of backslashes, so such a '|' gets one more. That one is visible
    # outside tables, and inside them if other backslashes precede the '|'.
    escaped = re.sub(r"(\\*)\|", lambda found: found[1] + "\\" * (1 + len(found[1]) % 2) + "|", text)
    return f"{fence} {escaped} {fence}"


def in_mermaid(value: object, most: int = _LINE) -> str:
    """Return a value's text for a quoted label of a Mermaid diagram.

    >>> in_mermaid('map("x")')
    'map#40;#34;x#34;#41;'
    """
    return one_line(value, most).translate(_LABEL)


def printable(text: str) -> str:
    r"""Return text for a terminal's table, with control characters replaced by spaces.

    >>> printable("a\x1b[2J")
    'a [2J'
    """
    return text if text.isprintable() else "".join(one if one.isprintable() else " " for one in text)


def _visible(one: str) -> str:
    return one.encode("unicode_escape").decode() if unicodedata.category(one) in _INVISIBLE else one
