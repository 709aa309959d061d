"""The line of a project's `requirements.txt` for the installed Sluice, so that CI installs the same."""

import json
import re
import shlex
from dataclasses import dataclass
from importlib.metadata import Distribution
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

__all__ = ["Requirement", "requirement_of"]

_WHEELS = "wheels"


@dataclass(frozen=True, slots=True)
class Requirement:
    """A line for `requirements.txt`, and the wheel that it refers to."""

    line: str
    wheel: Path | None = None
    """A wheel to copy to the path in the line."""
    command: str = ""
    """What the user runs to make that wheel, if it is not there."""


def requirement_of(installed: Distribution) -> Requirement:
    """Return the requirement for the installed Sluice.

    The wheel file it was installed from goes into the project: Sluice is on no public package index, where its name may be
    another program's. A commit of a repository is named by its address. What came from an index is named by its version.

    source    PEP 610, direct_url.json
    """
    version, extra = installed.version, "[testing]"
    origin = json.loads(installed.read_text("direct_url.json") or "{}")
    if not origin:
        return Requirement(f"sluice{extra}=={version}")
    url = _without_user(origin["url"])
    if commit := origin.get("vcs_info"):
        return Requirement(f"sluice{extra} @ {commit['vcs']}+{url}@{commit['commit_id']}")
    if not url.startswith("file:"):
        return Requirement(f"sluice{extra} @ {url}")
    path = Path(unquote(urlsplit(url).path))
    name = path.name if path.suffix == ".whl" else f"sluice-{re.sub('[^0-9A-Za-z.+!]', '_', version)}-py3-none-any.whl"
    line = f"./{_WHEELS}/{name}{extra}"
    if path.is_file() and path.suffix == ".whl":
        return Requirement(line, wheel=path)
    return Requirement(line, command=f"python -m pip wheel --no-deps --wheel-dir {_WHEELS} {shlex.quote(str(path))}")


def _without_user(url: str) -> str:
    """Return an address without user and password: the file goes into a repository."""
    scheme, place, *rest = urlsplit(url)
    return urlunsplit((scheme, place.rpartition("@")[2], *rest))
