"""`python -m prefect.engine`, which runs the flow run that the environment names, with less work for Prefect's server.

The run's events are posted instead of sent over a websocket (`flows.runtime.posting`), and its log has no lines on the steps
before it. With Prefect's own module in a deployment's `command`, its runs work all the same.
"""

import contextlib
import logging
import os
import runpy
import warnings

from prefect import flow_engine  # before the start is over: it takes time to import

from flows.runtime.posting import post_events
from tasks.base.state_folder import state_dir
from tasks.errors import SettingsError

__all__ = ["STARTING", "main"]

STARTING = "starting"  # a folder in the state folder: one file for each run whose process is importing

# Where Prefect 3.9.1 logs five lines on each pull step.
_STEPS = ("prefect/deployments/steps/core.py", "prefect/flows.py")


class _NoSteps(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno > logging.INFO or not record.pathname.replace("\\", "/").endswith(_STEPS)


def main() -> None:
    """Run the flow run as Prefect's engine does."""
    # A worker of another kind makes no such file, its folder is not this user's, or the run has no project to find it in.
    with contextlib.suppress(OSError, SettingsError):
        (state_dir() / STARTING / os.environ.get("PREFECT__FLOW_RUN_ID", "none")).unlink()
    post_events()
    _watch_for_no_suspension()
    logging.getLogger("prefect.flow_runs").addFilter(_NoSteps())
    # The module runs a second time, as the program; the first one is only imported from.
    warnings.filterwarnings("ignore", "'prefect.engine' found in sys.modules", RuntimeWarning)
    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)


def _watch_for_no_suspension() -> None:
    """Do without the thread and the websocket that tell a run when it was suspended (Prefect 3.9.1).

    Only tasks would heed it, at their beginning, and a stream runs in none. Cancelling does not go this way.
    """
    flow_engine.observe_flow_run_suspension = lambda *_, **__: contextlib.nullcontext()  # type: ignore[assignment] # pyright: ignore[reportPrivateImportUsage]


if __name__ == "__main__":
    main()
