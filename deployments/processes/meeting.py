"""The socket by which a run's command reaches its template, and the messages between the two.

Both sides check that the other belongs to the same user. Loads little: each run's command imports this.
"""

import marshal
import os
import socket
import stat
import struct
import zlib
from collections.abc import Mapping, Sequence

__all__ = [
    "RUN_TITLE",
    "START_METHOD",
    "WITHOUT_THREADS",
    "TemplateError",
    "folder",
    "name_of",
    "peer_is_us",
    "receive",
    "send",
    "shared",
]

START_METHOD = "SLUICE_START_METHOD"
"""The variable with the start method: `fork`, the default where that is safe, or `spawn`."""

RUN_TITLE = "sluice-run"
"""The name of a run's process; where no command stands for it, its arguments are this name and the run's id."""

WITHOUT_THREADS = {
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "MALLOC_ARENA_MAX": "1",
}
"""Defaults for a template: no library threads, because a fork copies one thread only, and one heap for all threads.

The heap is glibc's; with one for each of a run's dozen threads, each run took 8 MB more (Prefect 3.9.1).
"""

_LENGTH = struct.Struct("!I")
_MAX_FDS = 8
_PER_RUN = "PREFECT__"  # Prefect's variables for a single run have two underscores here; its settings have one


class TemplateError(Exception):
    """A run cannot be forked, with the reason; the command then starts it without a template."""


def folder() -> str:
    """Return the folder of the templates' sockets, which only this user can enter; create it if it is missing.

    raises    TemplateError: another user owns the folder, or others may enter it
    """
    state = os.environ.get("SLUICE_STATE_DIR")
    parent = state or os.path.join(os.environ.get("TMPDIR") or "/tmp", f"sluice-{os.getuid()}")  # noqa: PTH118, S108 - checked below
    path = os.path.join(parent, "templates")  # noqa: PTH118
    for each in (parent, path):
        try:
            os.mkdir(each, 0o700)  # noqa: PTH102
        except FileExistsError:
            pass
        except OSError as error:
            msg = f"cannot make the folder {each!r}: {error.strerror}"
            raise TemplateError(msg) from error
    for each in [path] if state else [parent, path]:  # in the temporary folder, any user may have created it first
        found = os.lstat(each)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            msg = f"expected {each!r} to be a folder that only this user can enter; remove it"
            raise TemplateError(msg)
    return path


def shared(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that runs of one template must share: all except those that Prefect sets for a single run."""
    return {name: value for name, value in sorted(environ.items()) if not name.startswith(_PER_RUN)}


def name_of(interpreter: Sequence[str], environ: Mapping[str, str]) -> str:
    """Return the name of the socket of the template for an interpreter and an environment.

    Two environments may have the same name, so the template compares them.
    """
    return f"{zlib.crc32(repr([*interpreter, shared(environ)]).encode(errors='surrogateescape')):08x}"


def peer_is_us(connection: socket.socket) -> bool:
    """Return whether the process at the other end of a unix socket runs as this user."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", credentials)[1] == os.getuid()


def send(connection: socket.socket, message: dict, fds: Sequence[int] = ()) -> None:
    """Send a message, and copies of open file descriptors with it."""
    data = marshal.dumps(message)
    head = _LENGTH.pack(len(data))
    if fds:
        socket.send_fds(connection, [head], list(fds))
    else:
        connection.sendall(head)
    connection.sendall(data)


def receive(connection: socket.socket) -> tuple[dict, list[int]]:
    """Return the next message, and the file descriptors that came with it.

    raises    EOFError: the other end has closed; OSError, ValueError
    """
    head, fds, _, _ = socket.recv_fds(connection, _LENGTH.size, _MAX_FDS)
    try:
        head += _exactly(connection, _LENGTH.size - len(head))
        # The peer is checked to be this user, so marshal is safe; it imports faster than JSON.
        return marshal.loads(_exactly(connection, _LENGTH.unpack(head)[0])), fds  # noqa: S302
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise


def _exactly(connection: socket.socket, count: int) -> bytes:
    parts = []
    while count:
        part = connection.recv(min(count, 2**20))
        if not part:
            raise EOFError
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
