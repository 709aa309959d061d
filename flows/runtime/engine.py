"""`python -m prefect.engine`, which runs the flow run that the environment names, with less work for Prefect's server.

The run posts its events instead of sending them over a websocket (`flows.runtime.posting`), and its log has no lines about the
steps before it. A deployment whose `command` names Prefect's own module works as well.
"""

import contextlib
import logging
import os
import runpy
import warnings

from prefect import flow_engine  # imported here, because it takes time

from flows.runtime.posting import post_events
from flows.runtime.postponed import postpone_schemas
from flows.runtime.tls import share_tls_context
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
    share_tls_context()
    post_events()
    postpone_schemas()
    _watch_for_no_suspension()
    logging.getLogger("prefect.flow_runs").addFilter(_NoSteps())
    # The module is imported already, and runs a second time as the program.
    warnings.filterwarnings("ignore", "'prefect.engine' found in sys.modules", RuntimeWarning)
    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)


def _watch_for_no_suspension() -> None:
    """Disable the thread and the websocket that watch for a suspension of the run (Prefect 3.9.1).

    Only tasks react to it, when they begin, and a stream runs in none. Cancelling works in another way.
    """
    flow_engine.observe_flow_run_suspension = lambda *_, **__: contextlib.nullcontext()  # type: ignore[assignment] # pyright: ignore[reportPrivateImportUsage]


if __name__ == "__main__":
    main()
