"""`python -m deployments.supervisor`: the process of `sluice up`, forked from the template that also forks its runs.

`sluice up` needs Prefect and Arrow, as the server, the worker and all runs do. They are imported once, by the template, and their
memory is shared: the supervisor has 90 MB less of its own, the worker 70, the server 80 (Prefect 3.9.1).
"""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

from deployments.servers.ledger import Ledger
from deployments.servers.prefect_server import check_port
from deployments.stack.setting import Setting
from tasks.base.state_folder import state_dir

__all__ = ["become_supervisor", "main"]


def become_supervisor(root: Path, *, port: int, quiet: bool = False) -> NoReturn:
    """Replace this process by the command that forks the supervisor and represents it, or runs it where nothing is forked.

    raises    SettingsError: another stack runs in the state folder, or the port is taken
    """
    folder = state_dir()
    with Ledger(folder).held():
        setting = Setting.of(root, folder, port=port)
        if setting.own_server:
            check_port(port)  # `up` checks it again; this answer comes at once
    given = {name: value for name, value in asdict(setting).items() if name != "env"}  # a command line has no secrets
    given["quiet"] = quiet
    command = ["deployments.processes.run", "deployments.supervisor", json.dumps(given, default=str)]
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-m", *command], setting.env)  # noqa: S606 - ourselves


def main() -> int:
    """Run `sluice up` with the setting in the first argument, and the environment as this process's own."""
    from deployments.options import console  # noqa: PLC0415 - it loads typer, which the command above does without
    from deployments.stack.up import up  # noqa: PLC0415

    given = json.loads(sys.argv[1])
    quiet = given.pop("quiet")
    folders = {name: Path(given[name]) for name in ("root", "folder")}
    return up(console(), Setting(**{**given, **folders}, env=dict(os.environ)), quiet=quiet)


if __name__ == "__main__":
    from deployments.reporting import reporting_errors

    reporting_errors(lambda: sys.exit(main()))
