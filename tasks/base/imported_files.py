"""Files outside the installation that this process has imported, with time and size to detect changes."""

import os
import sys
import sysconfig
from pathlib import Path

__all__ = ["imported_files", "stamps"]


def imported_files() -> dict[str, tuple[int, int]]:
    """Return time and size of each imported file outside the installation, and of the folders of installed packages.

    The result changes when code is edited or pulled, and when a package is installed, upgraded or removed.

    returns    (modification time in ns, size in bytes) by path
    """
    paths = sysconfig.get_paths()
    installed = tuple({paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")})
    files = {str(getattr(module, "__file__", None) or "") for module in list(sys.modules.values())}
    own = {file for file in files if file and not file.startswith(installed)}
    return stamps(*own, paths["purelib"], paths["platlib"])


def stamps(*files: str | Path | None) -> dict[str, tuple[int, int]]:
    """Return time and size of each file; zeros for a missing one."""
    return {str(file): _stamp(file) for file in files if file}


def _stamp(file: str | Path) -> tuple[int, int]:
    try:
        found = os.stat(file)  # noqa: PTH116 - faster than pathlib, for hundreds of files at each request for a run
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size
