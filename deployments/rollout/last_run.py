"""The last run of a deployment, as `sluice status` shows it."""

from dataclasses import dataclass
from datetime import datetime

__all__ = ["Deployed"]


@dataclass(frozen=True, slots=True)
class Deployed:
    """A deployment and its last run; the state's name and type are '' if it never ran."""

    name: str
    schedule: str
    run: str = ""
    state: str = ""
    type: str = ""
    since: datetime | None = None
