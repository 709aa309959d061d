"""A one-shot inlet, run as Prefect runs it; with DIE=1 its process is killed just after its push."""

import os
import signal
from typing import Any

from flows import inlet
from tasks.reservoir import Reservoir

_append = Reservoir.append


def append_and_die(*args: Any, **kwargs: Any) -> None:
    _append(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)


if os.environ.get("DIE"):
    Reservoir.append = append_and_die  # type: ignore[method-assign]


@inlet(topic="daily", every=None)
def dying() -> dict[str, int]:
    """Return the id of this process."""
    return {"pid": os.getpid()}
