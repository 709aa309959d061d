"""Where Sluice finds its servers, and what names and durations may look like."""

import hashlib
import os
import re
import tempfile
from collections.abc import Iterable
from datetime import timedelta
from decimal import Decimal
from numbers import Real
from pathlib import Path
from urllib.parse import quote

from tasks.base import quantities
from tasks.base.ids import MAX_NUMBER, id_named
from tasks.errors import SettingsError

__all__ = [
    "check_choice",
    "check_group",
    "check_number",
    "check_topic",
    "dead_topic",
    "group_end",
    "group_start",
    "is_topic",
    "local_socket",
    "redis_url",
    "retried_topic",
    "retry_topic",
    "seconds",
    "socket_url",
    "state_dir",
    "without_password",
]

REDIS_URL = "SLUICE_REDIS_URL"
SECRET_BLOCK = "sluice-redis-url"  # noqa: S105 - the name of it
STATE_DIR = "SLUICE_STATE_DIR"
QUOTING = "in a password, write special characters as %40 (@), %2F (/), %3F (?), %23 (#)"

_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,126}[A-Za-z0-9_])?"
_GROUP = re.compile(_NAME)
_TOPIC = re.compile(_NAME)
_READABLE = re.compile(rf"{_NAME}(?::(?:dead|retry):{_NAME})?")
_RULE = "1 to 128 letters, digits, '_', '.' or '-', no '.' or '-' at the ends"
_SCHEMES = ("redis", "rediss", "unix")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_HOST = re.compile(r"(?:\[[^\[\]@]*\]|[^\[\]@:]*)(?::\d*)?")
# The longest path a unix socket can be bound to on Linux, its closing NUL left out (sun_path, unix(7)).
_MAX_SOCKET_PATH = 107


def is_topic(name: str) -> bool:
    """Return whether a stream of that name can be a topic, or one of its dead letters or retries."""
    return bool(_READABLE.fullmatch(name))


def check_topic(name: str, *, derived: bool = False) -> str:
    """Return `name` if it can be a topic's; `derived` admits `<topic>:dead:<group>` and `:retry:` too."""
    if isinstance(name, str) and (_READABLE if derived else _TOPIC).fullmatch(name):
        return name
    msg = f"expected a topic name of {_RULE}, got {name!r}; rename the topic"
    raise SettingsError(msg)


def check_group(name: str) -> str:
    """Return `name` if it can be a consumer group's."""
    if isinstance(name, str) and _GROUP.fullmatch(name):
        return name
    msg = f"expected a group name of {_RULE}, got {name!r}; rename the group"
    raise SettingsError(msg)


def check_choice(value: object, choices: Iterable[object], *, name: str) -> None:
    """Refuse a value that is none of `choices`; `name` says whose it is."""
    allowed = list(choices)
    if value not in allowed:
        msg = f"{name}: expected {' or '.join(map(repr, allowed))}, got {value!r}"
        raise SettingsError(msg)


def check_number(value: object, *, least: int, name: str) -> None:
    """Refuse what is no whole number from `least` on; `name` says whose it is."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        msg = f"{name}: expected a whole number from {least} on, got {value!r}"
        raise SettingsError(msg)


def dead_topic(topic: str, group: str) -> str:
    """Return the topic that keeps what `group` could not process of `topic`."""
    return f"{topic}:dead:{group}"


def retry_topic(topic: str, group: str) -> str:
    """Return the topic that keeps what is replayed of the dead letters: only `group` reads it, beside `topic`."""
    return f"{topic}:retry:{group}"


def retried_topic(stream: str, group: str) -> str | None:
    """Return the topic of which `stream` is the retry topic of `group`; None if it is no such one.

    >>> retried_topic("market:retry:movers", "movers"), retried_topic("market", "movers")
    ('market', None)
    """
    topic, _, of_group = stream.partition(":retry:")
    return topic if of_group == group else None


# 100 years: a number that every server and clock takes.
_LONGEST = 36_525 * 86_400


def seconds(duration: str | float | timedelta, *, name: str = "duration", least: float = 0.0) -> float:
    """Return a duration in seconds: a number of seconds, a timedelta, or text such as '500ms', '1h30min' or 'PT1H30M'.

    What text may be is written in `tasks.base.quantities`.

    raises    SettingsError: not a duration, not above zero, above 100 years, or less than `least`; `name` is the option's
    """
    try:
        value = _in_seconds(duration)
    except (ValueError, TypeError, OverflowError) as error:
        why = f"; {error}" if isinstance(duration, str) else ""
        msg = f"{name}: expected a duration such as '500ms', '5s', '1h30min' or 'PT1H30M', got {duration!r}{why}"
        raise SettingsError(msg) from error
    if not 0 < value <= _LONGEST:
        msg = f"{name}: expected a duration above zero and of at most 100 years, got {duration!r}"
        raise SettingsError(msg)
    if value < least:
        msg = f"{name}: expected a duration of {least * 1000:g} ms or more, got {duration!r}"
        raise SettingsError(msg)
    return value


def _in_seconds(duration: object) -> float:
    if isinstance(duration, timedelta):
        return duration.total_seconds()
    if isinstance(duration, str):
        return float(quantities.duration(duration))
    # numpy registers timedelta64 as a whole number, of units that it would take for seconds here.
    is_timedelta64 = getattr(getattr(duration, "dtype", None), "kind", "") == "m"
    if isinstance(duration, Real | Decimal) and not isinstance(duration, bool) and not is_timedelta64:
        return float(duration)
    raise TypeError


def group_start(start_from: str) -> str:
    """Return the entry id after which a new group starts, so that it reads `start_from` and what follows.

    start_from   'beginning', 'new', an ISO 8601 time (UTC unless it says otherwise) or an entry id
    raises       SettingsError: none of these
    """
    if start_from == "beginning":
        return "0-0"
    if start_from == "new":
        return "$"
    expected = "'beginning', 'new', an ISO time or an entry id"
    return _before(*id_named(start_from, name="start_from", expected=expected, sequence=0))


def group_end(until: str) -> str:
    """Return the id of the last entry that `until` admits; '$' for what a topic holds at the start.

    until     'now' (or 'new'), an ISO 8601 time (UTC unless it says otherwise) or an entry id; all inclusive
    raises    SettingsError: none of these
    """
    if until in ("now", "new"):
        return "$"
    expected = "'now', an ISO time or an entry id"
    ms, sequence = id_named(until, name="until", expected=expected, sequence=MAX_NUMBER)
    return f"{ms}-{sequence}"


def _before(ms: int, sequence: int) -> str:
    if sequence:
        return f"{ms}-{sequence - 1}"
    return f"{ms - 1}-{MAX_NUMBER}" if ms else "0-0"


def state_dir() -> Path:
    """Return the folder in which `sluice up` keeps what must survive it: `.sluice/` beside `prefect.yaml`."""
    if named := os.environ.get(STATE_DIR):
        return Path(named).absolute()
    return Path(__file__).resolve().parents[1] / ".sluice"


def local_socket() -> Path:
    """Return the socket of the Redis that `sluice up` starts, which only this user can open."""
    path = state_dir() / "redis" / "redis.sock"
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
        digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
        path = Path(tempfile.gettempdir()) / f"sluice-{os.getuid()}-{digest}" / "redis.sock"
    return path


def _trusted(socket: Path) -> Path:
    """Return a socket that no other user can have put there: in the temporary folder, anyone can be the first."""
    from tasks.base.private_folders import is_private  # noqa: PLC0415 - it needs this module

    if socket.is_relative_to(state_dir()) or (is_private(socket.parent) and socket.lstat().st_uid == os.getuid()):
        return socket
    msg = (
        f"expected {socket} in a folder that only this user can write to, got one that another user can have put there; it was "
        f"not used; remove {socket.parent}, or set {STATE_DIR} to a folder with a shorter path"
    )
    raise SettingsError(msg)


def socket_url(path: Path) -> str:
    """Return the address of the Redis that listens on a socket.

    >>> socket_url(Path("/home/me/c#/redis.sock"))
    'unix:///home/me/c%23/redis.sock'
    """
    # Only what an address would take for something else: a path in any language can still be read.
    return "unix://" + re.sub(r"[\x00-\x20%#?\x7f]", lambda found: quote(found[0]), str(path))


def redis_url() -> str:
    """Return the reservoir's address, from the first that names one.

    1. `SLUICE_REDIS_URL`; 2. inside a Prefect flow run, the Secret block `sluice-redis-url`;
    3. the local stack of `sluice up`, if it is running.

    raises    SettingsError: none of them does, or what it says is not an address of Redis
    """
    if url := os.environ.get(REDIS_URL):
        return check_url(url, where=REDIS_URL)
    if url := _from_secret_block():
        return check_url(url, where=f"the Secret block {SECRET_BLOCK!r}")
    if (socket := local_socket()).exists():
        return socket_url(_trusted(socket))
    msg = (
        f"expected a Redis to use, found none: no {REDIS_URL} is set and `sluice up` is not running here; "
        f"run `make up`, or set {REDIS_URL}=redis://HOST:6379/0"
    )
    raise SettingsError(msg)


def check_url(url: str, *, where: str = "url") -> str:
    """Return `url` if it can be an address of Redis. What is wrong with it is said without repeating it."""
    scheme, rest = _scheme_and_rest(url)
    if scheme in _SCHEMES:
        database = re.split("[?#]", rest)[0].partition("/")[2]
        if scheme == "unix" or not database or database.isdecimal():
            return url
        # redis-py would take database 0.
        msg = f"{where}: expected a database number behind the host, as in redis://HOST:6379/0, got something else; {QUOTING}"
        raise SettingsError(msg)
    msg = f"{where}: expected an address like redis://HOST:6379/0, rediss://... or unix:///PATH, got {f'one that begins with {scheme!r}' if scheme else 'one without a scheme'}"
    raise SettingsError(msg)


def without_password(url: str) -> str:
    """Return `url` fit to be shown: scheme, host, port and path; no user, no password, no query.

    Only the scheme, where it is in doubt what belongs to a password.

    >>> without_password("redis://user:secret@host:6379/0"), without_password("redis://:sec/ret@host:6379/0")
    ('redis://host:6379/0', 'redis://')
    """
    scheme, rest = _scheme_and_rest(url)
    shown = f"{scheme}://" if scheme else ""
    address = re.split("[?#]", rest)[0]
    named, slash, path = address.partition("/")
    if scheme == "unix" and not named:
        return shown if "@/" in rest else shown + address  # before '@/' it may be a user
    host = named.rpartition("@")[2]
    return shown if "@" in rest[len(named) :] or not _HOST.fullmatch(host) else shown + host + slash + path


def _scheme_and_rest(url: str) -> tuple[str, str]:
    """Return what is before '://' and what follows; '' and all of it, if it does not begin with a scheme."""
    scheme, found, rest = url.partition("://")
    return (scheme, rest) if found and _SCHEME.fullmatch(scheme) else ("", url)


def _from_secret_block() -> str | None:
    import sys  # noqa: PLC0415

    if "prefect.context" not in sys.modules:  # not loaded: this cannot be a flow run
        return None
    from prefect.blocks.system import Secret  # noqa: PLC0415
    from prefect.context import FlowRunContext  # noqa: PLC0415

    if FlowRunContext.get() is None:
        return None
    try:
        block = Secret.load(SECRET_BLOCK)
    except ValueError:  # no such block
        return None
    return str(block.get())  # type: ignore[union-attr]
