"""Files that are there whole or not at all, stay once a call has returned, and take no other file's place."""

import contextlib
import errno
import fcntl
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

from typing_extensions import Buffer

from tasks.base.state_folder import mode_of

__all__ = ["locked", "make_folder", "replace", "write_new"]

_PATIENCE = 5.0  # seconds
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
_NO_LOCKS = (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK)


def write_new(path: Path, data: Buffer) -> Path:
    """Write a new file and return its path: the one given, or one beside it if there is such a file.

    Call it under `locked`: what writers that died have left in the folder is removed.
    """
    make_folder(path.parent)
    for left in path.parent.glob(".*.tmp"):
        left.unlink(missing_ok=True)
    temporary = _write_temporary(path, data)
    names = itertools.chain([path], (path.with_name(f"{path.stem}_{n}.parquet") for n in itertools.count(1)))
    new = next(name for name in names if _link(temporary, name))
    temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return new


def replace(path: Path, data: Buffer) -> None:
    """Write a file, in the place of the one that is there."""
    _write_temporary(path, data).replace(path)
    _sync_folder(path.parent)


def _write_temporary(path: Path, data: Buffer) -> Path:
    temporary = path.with_name(f".{path.name}.tmp")  # readers of datasets pass over names that begin with a dot
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return temporary


def _link(temporary: Path, path: Path) -> bool:
    """Give a file its name, unless another has it; return whether it has it now."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if path.exists():
            return False
        temporary.rename(path)
    return True


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a dataset for oneself among its writers.

    raises    BlockingIOError: another has held it for some seconds
    """
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > end:
                msg = "another process is writing to the dataset"
                raise BlockingIOError(errno.EAGAIN, msg, str(folder)) from error
            time.sleep(0.01)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return
        else:
            return


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, if need be."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(mode=mode_of(path), exist_ok=True)
        _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    """Make the names in a folder last: fsync of a file does not do it for its name (fsync(2))."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
