"""The state folder `.sluice/`, and folders that only this user can enter."""

import os
import stat
from pathlib import Path

__all__ = ["STATE_DIR", "is_private", "make_private", "mode_of", "state_dir"]

STATE_DIR = "SLUICE_STATE_DIR"


def state_dir() -> Path:
    """Return the folder in which `sluice up` keeps what must survive it: `.sluice/` beside `prefect.yaml`."""
    if named := os.environ.get(STATE_DIR):
        return Path(named).absolute()
    return Path(__file__).resolve().parents[2] / ".sluice"


def make_private(folder: Path) -> None:
    """Make a folder and its missing parents, with permissions for this user alone; those that exist stay as they are."""
    if not folder.is_dir():
        make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def mode_of(folder: Path) -> int:
    """Return the mode to make a folder with: private for the state folder and what is inside, else the umask decides."""
    return 0o700 if folder.is_relative_to(state_dir()) else 0o777


def is_private(folder: Path) -> bool:
    """Return whether a path is a folder of this user, and no link, into which no other user can put anything."""
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
