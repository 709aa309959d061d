"""The address of the Redis in use: from the environment, a Secret block, or the local stack."""

import hashlib
import os
import re
import tempfile
from pathlib import Path
from urllib.parse import quote

from tasks.base.project_folder import up_command
from tasks.base.state_folder import STATE_DIR, is_private, state_dir
from tasks.errors import SettingsError

__all__ = [
    "METRICS_PORT",
    "REDIS_URL",
    "SECRET_BLOCK",
    "check_url",
    "local_socket",
    "metrics_port",
    "redis_url",
    "socket_url",
    "without_password",
]

REDIS_URL = "SLUICE_REDIS_URL"
METRICS_PORT = "SLUICE_METRICS_PORT"
_DEFAULT_METRICS_PORT = 9464  # OpenTelemetry's for Prometheus exporters
_LARGEST_PORT = 65_535
SECRET_BLOCK = "sluice-redis-url"  # noqa: S105 - the block's name
QUOTING = "in a password, write special characters as %40 (@), %2F (/), %3F (?), %23 (#)"

_SCHEMES = ("redis", "rediss", "unix")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_HOST = re.compile(r"(?:\[[^\[\]@]*\]|[^\[\]@:]*)(?::\d*)?")
# Linux' limit on the path of a unix socket, without the closing NUL (sun_path, unix(7)).
_MAX_SOCKET_PATH = 107


def local_socket() -> Path:
    """Return the socket path of the Redis that `sluice up` starts; only this user can open it."""
    path = state_dir() / "redis" / "redis.sock"
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
        digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
        path = Path(tempfile.gettempdir()) / f"sluice-{os.getuid()}-{digest}" / "redis.sock"
    return path


def _trusted(socket: Path) -> Path:
    """Return a socket that no other user can have created: in the temporary folder, anyone may create the path first.

    raises    SettingsError: another user can have created it
    """
    if socket.is_relative_to(state_dir()) or (is_private(socket.parent) and socket.lstat().st_uid == os.getuid()):
        return socket
    msg = (
        f"expected {socket} in a folder that only this user can write to, got one that another user may have created; it was "
        f"not used; remove {socket.parent}, or set {STATE_DIR} to a folder with a shorter path"
    )
    raise SettingsError(msg)


def metrics_port() -> int | None:
    """Return the port of `SLUICE_METRICS_PORT`, by default 9464; None if it is 'off'.

    raises    SettingsError: it is neither a port nor 'off'
    """
    given = os.environ.get(METRICS_PORT) or str(_DEFAULT_METRICS_PORT)
    if given == "off":
        return None
    if given.isascii() and given.isdecimal() and 0 < int(given) <= _LARGEST_PORT:
        return int(given)
    msg = f"{METRICS_PORT}: expected a port from 1 to {_LARGEST_PORT}, or 'off', got {given!r}"
    raise SettingsError(msg)


def socket_url(path: Path) -> str:
    """Return the address of the Redis that listens on a socket.

    >>> socket_url(Path("/home/me/c#/redis.sock"))
    'unix:///home/me/c%23/redis.sock'
    """
    # Escape only characters with a meaning in a URL, so that paths in any language stay readable.
    return "unix://" + re.sub(r"[\x00-\x20%#?\x7f]", lambda found: quote(found[0]), str(path))


def redis_url() -> str:
    """Return the address of Redis from the first of these sources that has one.

    1. `SLUICE_REDIS_URL`; 2. inside a Prefect flow run, the Secret block `sluice-redis-url`;
    3. the local stack of `sluice up`, if it is running.

    raises    SettingsError: none has one, or it is not an address of Redis
    """
    if url := os.environ.get(REDIS_URL):
        return check_url(url, where=REDIS_URL)
    if url := _from_secret_block():
        return check_url(url, where=f"the Secret block {SECRET_BLOCK!r}")
    try:
        socket = local_socket()
    except SettingsError as error:  # there is no project
        msg = f"expected a Redis to use, found none: no {REDIS_URL} is set; set {REDIS_URL}=redis://HOST:6379/0; or {error}"
        raise SettingsError(msg) from error
    if socket.exists():
        return socket_url(_trusted(socket))
    msg = (
        f"expected a Redis to use, found none: no {REDIS_URL} is set and `sluice up` is not running here; "
        f"run `{up_command()}`, or set {REDIS_URL}=redis://HOST:6379/0"
    )
    raise SettingsError(msg)


def check_url(url: str, *, where: str = "url") -> str:
    """Return a valid address of Redis, or refuse it.

    where     the source of the address, for the message
    raises    SettingsError: not an address of Redis; the message does not repeat it, because it may hold a password
    """
    scheme, rest = _scheme_and_rest(url)
    if scheme in _SCHEMES:
        database = re.split("[?#]", rest)[0].partition("/")[2]
        if scheme == "unix" or not database or database.isdecimal():
            return url
        # redis-py would take database 0.
        msg = f"{where}: expected a database number behind the host, as in redis://HOST:6379/0, got something else; {QUOTING}"
        raise SettingsError(msg)
    got = f"one that begins with {scheme!r}" if scheme else "one without a scheme"
    msg = f"{where}: expected an address like redis://HOST:6379/0, rediss://... or unix:///PATH, got {got}"
    raise SettingsError(msg)


def without_password(url: str) -> str:
    """Return an address without user, password and query, for display.

    Returns only the scheme if parts of the address might belong to a password.

    >>> without_password("redis://user:secret@host:6379/0"), without_password("redis://:sec/ret@host:6379/0")
    ('redis://host:6379/0', 'redis://')
    """
    scheme, rest = _scheme_and_rest(url)
    shown = f"{scheme}://" if scheme else ""
    address = re.split("[?#]", rest)[0]
    named, slash, path = address.partition("/")
    if scheme == "unix" and not named:
        return shown if "@/" in rest else shown + address  # the text before '@/' may be a user
    host = named.rpartition("@")[2]
    return shown if "@" in rest[len(named) :] or not _HOST.fullmatch(host) else shown + host + slash + path


def _scheme_and_rest(url: str) -> tuple[str, str]:
    """Split an address at '://'; without a scheme, return '' and the whole address."""
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
