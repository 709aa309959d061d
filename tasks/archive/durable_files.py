"""Durable files: written whole or not at all, on the disk once a call returns, and never over another file.

Folders too: two of them can take each other's place in one step.
"""

import contextlib
import ctypes
import errno
import fcntl
import itertools
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from typing_extensions import Buffer

from tasks.base.state_folder import mode_of

__all__ = ["exchange", "link_or_copy", "locked", "make_folder", "remove_folder", "replace", "sync", "write_new"]

_PATIENCE = 5.0  # seconds
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
_NO_LOCKS = (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK)
_HERE = -100  # AT_FDCWD of openat(2)
_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2), and RENAME_SWAP of renamex_np(2) on macOS


def write_new(path: Path, data: Buffer) -> Path:
    """Write a new file and return its path: `path`, or a free name beside it if `path` exists.

    Call it under `locked`, because it removes temporary files that dead writers left in the folder.
    """
    make_folder(path.parent)
    for left in path.parent.glob(".*.tmp"):
        left.unlink(missing_ok=True)
    temporary = _write_temporary(path, data)
    names = itertools.chain([path], (path.with_name(f"{path.stem}_{n}.parquet") for n in itertools.count(1)))
    new = next(name for name in names if _link(temporary, name))
    temporary.unlink(missing_ok=True)
    sync(path.parent)
    return new


def replace(path: Path, data: Buffer) -> None:
    """Write a file, and replace the existing one atomically."""
    _write_temporary(path, data).replace(path)
    sync(path.parent)


def _write_temporary(path: Path, data: Buffer) -> Path:
    temporary = path.with_name(f".{path.name}.tmp")  # dataset readers ignore names that begin with a dot
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return temporary


def link_or_copy(path: Path, new: Path) -> None:
    """Make the file `new` with the content of `path`: the same file under a second name, where the file system has that."""
    try:
        new.hardlink_to(path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copyfile(path, new)
        sync(new)


def exchange(one: Path, other: Path) -> None:
    """Let two folders of one file system take each other's place, in one step.

    raises    OSError: with ENOSYS, ENOTSUP, EINVAL or EXDEV if system or file system cannot do that
    """
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    try:  # os has no function for it (Python 3.14)
        if sys.platform == "darwin":
            failed = libc.renamex_np(*names, _EXCHANGE)
        else:
            failed = libc.renameat2(_HERE, names[0], _HERE, names[1], _EXCHANGE)
    except AttributeError:  # glibc before 2.28
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(one)) from None
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(one), None, str(other))
    for parent in {one.parent, other.parent}:
        sync(parent)


def remove_folder(folder: Path) -> None:
    """Delete a folder with its files; none is no error."""
    shutil.rmtree(folder, ignore_errors=not folder.exists())


def _link(temporary: Path, path: Path) -> bool:
    """Link a temporary file to its name unless that exists; return whether it was linked."""
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
def locked(folder: Path, name: str = ".lock") -> Iterator[None]:
    """Lock a dataset against its other writers.

    name      of the lock's file
    raises    BlockingIOError: another writer has held the lock for some seconds
    """
    descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o666)
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
    """Create a folder and its parents if they do not exist."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(mode=mode_of(path), exist_ok=True)
        sync(path.parent)


def sync(path: Path) -> None:
    """Sync a file, or the names in a folder, to the disk; fsync of a file does not do the latter (fsync(2))."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
