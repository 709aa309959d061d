"""The state folder `.sluice/`, and folders that only this user can enter."""

import os
import stat
from pathlib import Path

from tasks.base.project_folder import find_project, project_dir

__all__ = ["STATE_DIR", "is_private", "make_private", "mode_of", "state_dir"]

STATE_DIR = "SLUICE_STATE_DIR"
_NAME = ".sluice"


def state_dir() -> Path:
    """Return the folder for the data of `sluice up`: `SLUICE_STATE_DIR`, or `.sluice/` in the project's folder.

    raises    SettingsError: the variable is not set and there is no project
    """
    return _named() or project_dir() / _NAME


def make_private(folder: Path) -> None:
    """Make a folder and its missing parents, accessible to this user only; existing folders stay unchanged."""
    if not folder.is_dir():
        make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def mode_of(folder: Path) -> int:
    """Return the mode for a new folder: private for the state folder and its contents, else as the umask decides."""
    state = _named() or ((project := find_project()) and project / _NAME)
    return 0o700 if state and folder.is_relative_to(state) else 0o777


def is_private(folder: Path) -> bool:
    """Return whether a path is a real folder, not a link, that this user owns and no other user can write to."""
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022


def _named() -> Path | None:
    named = os.environ.get(STATE_DIR)
    return Path(named).absolute() if named else None
