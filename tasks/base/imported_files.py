"""Which files outside the installation this process has imported, and whether one has changed since."""

import os
import sys
import sysconfig
from pathlib import Path

__all__ = ["imported_files", "seen"]


def imported_files() -> dict[str, tuple[int, int]]:
    """Return time and size of each imported file outside the installation, and of the folders of what is installed.

    They change when code is edited or pulled, and when a package is installed, upgraded or removed.
    """
    paths = sysconfig.get_paths()
    installed = tuple({paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")})
    files = {str(getattr(module, "__file__", None) or "") for module in list(sys.modules.values())}
    own = {file for file in files if file and not file.startswith(installed)}
    return seen(*own, paths["purelib"], paths["platlib"])


def seen(*files: str | Path | None) -> dict[str, tuple[int, int]]:
    """Return time and size of each file; zeros for one that is not there."""
    return {str(file): _seen(file) for file in files if file}


def _seen(file: str | Path) -> tuple[int, int]:
    try:
        found = os.stat(file)  # noqa: PTH116 - some hundred files, at each request for a run
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size
