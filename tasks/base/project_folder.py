"""The project's folder, which holds `prefect.yaml`, the user's flows and the state folder."""

import os
import re
from pathlib import Path

from tasks.errors import SettingsError

__all__ = [
    "CODE",
    "PACKAGES",
    "PREFECT_YAML",
    "PROJECT",
    "checkout",
    "find_project",
    "hiding",
    "project_dir",
    "up_command",
]

PROJECT = "SLUICE_PROJECT"
PREFECT_YAML = "prefect.yaml"

CODE = Path(__file__).resolve().parents[2]
"""The folder that holds Sluice's own packages: a clone of its repository, or `site-packages`."""

PACKAGES = ("deployments", "flows", "sluice", "tasks")
"""The top-level names of Sluice's packages."""

# All of Sluice's deployments share this work pool; it distinguishes their `prefect.yaml` from those of other programs.
_OURS = re.compile(rb"""\bname:[ \t]*(["']?)sluice\1[ \t]*(?:[,}#\r\n]|\Z)""")


def project_dir() -> Path:
    """Return the folder of the project in use.

    1. `SLUICE_PROJECT`; 2. the nearest folder, from the working directory upwards, with a `prefect.yaml` that names the
    work pool `sluice`; 3. the clone from which Sluice runs.

    raises    SettingsError: there is none, or only one that belongs to another user
    """
    if found := find_project():
        return found
    if foreign := next(filter(_is_project, _upwards()), None):
        msg = (
            f"expected a project that this user owns, found {foreign}, which belongs to another user and could run that user's "
            f"code; it was not used; if you trust it, set {PROJECT}={foreign}"
        )
        raise SettingsError(msg)
    start = next(iter(_upwards()), "the working directory, which was deleted,")
    msg = (
        f"expected a project, found no {PREFECT_YAML} with the work pool sluice in {start} or above; "
        f"change to a project's folder, set {PROJECT} to one, or make one with `sluice init`"
    )
    raise SettingsError(msg)


def find_project() -> Path | None:
    """Return the folder of the project in use, chosen as in `project_dir`, or None if there is none.

    raises    SettingsError: `SLUICE_PROJECT` names a folder without a `prefect.yaml`
    """
    if named := os.environ.get(PROJECT):
        folder = Path(os.path.abspath(named))  # noqa: PTH100 - without '..'; links stay as they are
        if not (folder / PREFECT_YAML).is_file():
            msg = f"{PROJECT}: expected a folder with a {PREFECT_YAML}, found none in {folder}"
            raise SettingsError(msg)
        return folder
    return next((each for each in _upwards() if _is_project(each) and _is_trusted(each)), checkout())


def checkout() -> Path | None:
    """Return the clone of Sluice's repository that contains this code, or None if it is installed from a wheel."""
    return CODE if _is_project(CODE) else None


def up_command() -> str:
    """Return the command that starts everything here: `make up` in the clone, `sluice up` in a project of one's own."""
    try:
        is_clone = find_project() == checkout() is not None
    except SettingsError:
        is_clone = False
    return "make up" if is_clone else "sluice up"


def hiding(project: Path) -> list[str]:
    """Return a project's modules that shadow Sluice's packages: a run imports from the project's folder first."""
    if project == CODE:
        return []
    candidates = [file for name in PACKAGES for file in (f"{name}.py", f"{name}/__init__.py")]
    return [file for file in candidates if (project / file).exists()]


def _upwards() -> list[Path]:
    """Return the working directory and its parents; none if it was deleted."""
    try:
        here = Path.cwd()
    except FileNotFoundError:
        return []
    return [here, *here.parents]


def _is_project(folder: Path) -> bool:
    file = folder / PREFECT_YAML
    try:
        return file.is_file() and bool(_OURS.search(file.read_bytes()))
    except OSError:
        return False


def _is_trusted(folder: Path) -> bool:
    """Return whether this user or root owns a project: in a shared folder, any user could place one, whose code would run."""
    return all(path.stat().st_uid in (os.geteuid(), 0) for path in (folder, folder / PREFECT_YAML))
