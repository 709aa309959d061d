"""Text of unknown origin, made safe to show: on one line, below a line, in Markdown, in a Mermaid label.

An entry, an exception, a column or a name on a server can hold line breaks, control characters and markup. Shown as it
is, it could forge a log line, steer a terminal, or put an image into a report.
"""

import re
import string
import traceback
import unicodedata

__all__ = ["below", "error_line", "in_markdown", "in_mermaid", "one_line", "printable", "traceback_below"]

_LINE, _ERROR, _FRAME, _TRACEBACK = 2_000, 500, 1_000, 8_000  # characters
_INDENT = "    "
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # Unicode's controls, formats, surrogates, line separators
_SPECIAL = {ord(one): f"\\{one}" for one in r"""\`*_~[]<>&!|#"""}  # wherever they are in a line
# Mermaid reads '#', a number and ';' as that character, after it has parsed labels, which it may take for Markdown.
_LABEL = {ord(one): f"#{ord(one)};" for one in string.punctuation}
# Prefect's UI, version 2, makes links of these in any text but code: behind its parser, so that no escape helps (3.8.8).
_LINKED = re.compile(r"://|www\.|@", re.IGNORECASE)


def one_line(value: object, most: int = _LINE) -> str:
    r"""Return a value's text on one line of about `most` characters: controls are written as Python writes them.

    >>> one_line("a\n\x1b[2J\u202eb"), one_line("x" * 10, 4)
    ('a\\n\\x1b[2J\\u202eb', 'xxxx... (10 characters)')
    """
    text = str(value)
    head = text[: most + 1]
    shown = head if head.isprintable() else "".join(map(_visible, head))
    return shown if len(shown) <= most else f"{shown[:most]}... ({len(text):,} characters)"


def error_line(error: BaseException, most: int = _ERROR) -> str:
    """Return an exception's type and text on one line, as `one_line` does.

    >>> error_line(ValueError("not this"))
    'ValueError: not this'
    """
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a class of the user's
        text = "(its text cannot be had)"
    return one_line(f"{type(error).__name__}: {text}" if text else type(error).__name__, most)


def below(text: str, most: int = 10 * _LINE) -> str:
    r"""Return text of several lines with all but the first indented, so that none can be taken for a line of a log.

    A table, whose first line begins with a space, goes below as a whole.

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
    """Return an exception's traceback, indented: its end, of some KB, if it is longer than that."""
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
    r"""Return a value's text for a place inside a line of Markdown: text in both versions of Prefect's UI, and one cell in a table.

    Numeric character references would do for CommonMark, but version 1 shows them as they are (3.8.8).

    >>> in_markdown("a|b <i>"), in_markdown("me@here")
    ('a\\|b \\<i\\>', '`` me@here ``')
    """
    text = one_line(value, most)
    return _as_code(text) if _LINKED.search(text) else text.translate(_SPECIAL)


def _as_code(text: str) -> str:
    """Return text as a code span, which no parser looks into."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=1))
    # A cell ends at a '|' without a backslash before it; two backslashes are none. So a text with '\\|' is shown with one more
    # there, and one with '|' outside of a table.
    escaped = re.sub(r"(\\*)\|", lambda found: found[1] + "\\" * (1 + len(found[1]) % 2) + "|", text)
    return f"{fence} {escaped} {fence}"


def in_mermaid(value: object, most: int = _LINE) -> str:
    """Return a value's text for a quoted label of a Mermaid diagram.

    >>> in_mermaid('map("x")')
    'map#40;#34;x#34;#41;'
    """
    return one_line(value, most).translate(_LABEL)


def printable(text: str) -> str:
    r"""Return text for a terminal's table: a space for each character that a terminal would obey.

    >>> printable("a\x1b[2J")
    'a [2J'
    """
    return text if text.isprintable() else "".join(one if one.isprintable() else " " for one in text)


def _visible(one: str) -> str:
    return one.encode("unicode_escape").decode() if unicodedata.category(one) in _UNSEEN else one
