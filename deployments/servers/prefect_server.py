"""A Prefect server and a process worker of our own, on this machine only."""

import os
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from deployments.servers import login
from deployments.servers.child import Child, last_lines
from deployments.servers.ledger import Ledger
from tasks.errors import SettingsError, UnavailableError
from tasks.settings import without_password

if TYPE_CHECKING:
    from httpx import HTTPError

__all__ = [
    "POOL",
    "answers",
    "check_port",
    "find_server",
    "is_reachable",
    "prefect_server",
    "said_by",
    "settings_of_other_server",
    "settings_of_own_server",
    "wait_for_server",
    "worker",
]

POOL = "sluice"
_LOOPBACK = "127.0.0.1"
_LETS_NOBODY_IN = (401, 403)

# For whoever talks to a server or runs flows, wherever the server is.
_CLIENT_SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # the least there is; deployments/automations.yaml counts on it
    # With these a scheduled run starts 0.1 s after its time (p50; defaults: up to 6 s). Prefect 3.9.1.
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "PREFECT_WORKER_PREFETCH_SECONDS": "20",
}

_SERVER_SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    # Leases in memory do not survive the server, and a run that cannot renew its own is killed (3.9.1).
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    # Four inlets are 5,760 flow runs a day; by default only events are ever removed.
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "true",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": "259200",  # 3 days, in seconds; the next one in ISO 8601
    "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": "P3D",
}


def settings_of_own_server(home: Path, port: int, *, secret: str) -> dict[str, str]:
    """Return the environment for a server of our own on `port`, and for all that talks to it.

    What the user has set stays, but for where the server is, where it keeps its data, and the `secret` that it asks for.
    """
    defaults, own = login.settings(secret, port=port)
    return {
        **_CLIENT_SETTINGS,
        **_SERVER_SETTINGS,
        **defaults,
        **os.environ,
        **own,
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://{_LOOPBACK}:{port}/api",
        # Where links lead. Version 2 of the UI is its default, but only for who comes to its root; version 1 draws no
        # diagrams (Prefect 3.9.1).
        "PREFECT_UI_URL": f"http://{_LOOPBACK}:{port}/v2",
        "PREFECT_SERVER_API_HOST": _LOOPBACK,
        "PREFECT_SERVER_API_PORT": str(port),
    }


def settings_of_other_server() -> dict[str, str]:
    """Return the environment for workers and flows that use the server that PREFECT_API_URL names."""
    login.keep_from_others()
    return {**_CLIENT_SETTINGS, **os.environ}


def prefect_server(port: int, *, log: Path, env: Mapping[str, str], cwd: Path) -> Child:
    """Return a Prefect server that listens on loopback only."""
    command = [sys.executable, "-m", "deployments.servers.serve"]  # which says why not Prefect's own command
    return Child("Prefect server", [*command, "--host", _LOOPBACK, "--port", str(port)], log=log, env=env, cwd=cwd)


def worker(*, log: Path, env: Mapping[str, str], cwd: Path) -> Child:
    """Return a process worker of the pool, whose runs use this interpreter.

    The deployments' command is `python -m deployments.processes.run`: the first `python` on the PATH, which is another one where
    the environment was not activated.
    """
    beside_us = str(Path(sys.executable).parent)
    path = os.pathsep.join([beside_us, env.get("PATH", os.defpath)])
    command = [sys.executable, "-m", "deployments.processes.worker", "--pool", POOL, "--type", "process"]
    return Child("worker", command, log=log, env={**env, "PATH": path}, cwd=cwd)


def check_port(port: int) -> None:
    """Raise SettingsError, which says what to do, if something listens on `port` already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_LOOPBACK, port))
        except PermissionError as error:
            msg = f"port {port} cannot be used by this user; choose one above 1023: {_with_port(4201)}"
            raise SettingsError(msg) from error
        except OSError as error:
            url = f"http://{_LOOPBACK}:{port}/api"
            if answers(url):
                whose = (
                    f"by another Prefect server; use that one: PREFECT_API_URL={url} sluice up, or start one beside it"
                )
            else:
                whose = "by another program; start the Prefect server elsewhere"
            msg = f"port {port} is taken {whose}: {_with_port(port + 1)}"
            raise SettingsError(msg) from error


def _with_port(port: int) -> str:
    return f'sluice up --port {port}, or make up ARGS="--port {port}"'


def answers(api_url: str, *, timeout: float = 2) -> bool:
    """Tell whether a Prefect server answers at `api_url`, without loading Prefect."""
    try:
        with urllib.request.urlopen(f"{api_url.rstrip('/')}/health", timeout=timeout) as reply:  # noqa: S310 - http(s), from settings
            return reply.status == 200 and reply.read(16).strip() == b"true"  # noqa: PLR2004 - HTTP's OK
    except (OSError, ValueError):
        return False


def is_reachable(api_url: str) -> bool:
    """Tell whether the server at `api_url`, which Prefect's settings name, answers; with TLS it is asked as Prefect asks.

    The certificate that it takes, a key and headers are in its settings, too.
    """
    if not api_url.startswith("https://"):
        return answers(api_url)
    from httpx import HTTPStatusError  # noqa: PLC0415 - as Prefect, for those who need it

    from flows.runtime.prefect_api import impatient_client  # noqa: PLC0415

    with impatient_client() as client:
        error = client.api_healthcheck()
    return error is None or (isinstance(error, HTTPStatusError) and error.response.status_code in _LETS_NOBODY_IN)


def find_server(ledger: Ledger) -> str:
    """Return the address of the Prefect server, which answers: that of `sluice up`, if it runs and no other is set.

    raises    UnavailableError: none answers
    """
    login.keep_from_others()
    if not os.environ.get("PREFECT_API_URL") and ledger.holder() and (url := ledger.api_url()):
        os.environ["PREFECT_API_URL"] = url
        if ledger.has_login():
            login.use_stored(ledger.folder)
    # Only now: Prefect reads its settings when it is imported.
    from prefect.settings import get_current_settings  # noqa: PLC0415

    url = str(get_current_settings().api.url or "")
    if url and is_reachable(url):
        return url
    msg = f"no Prefect server answers{f' at {without_password(url)}' if url else ''}; run `make up`, or set PREFECT_API_URL"
    raise UnavailableError(msg)


def said_by(error: "HTTPError") -> str:
    """Return what is wrong with a server that answers, but not as it should, in a sentence without a credential."""
    from httpx import HTTPStatusError  # noqa: PLC0415 - only where there was one
    from prefect.settings import get_current_settings  # noqa: PLC0415

    where = f"the Prefect server at {without_password(str(get_current_settings().api.url))}"
    if not isinstance(error, HTTPStatusError):
        return f"{where} does not answer in time ({type(error).__name__}); try again, or look into its log"
    status = error.response.status_code
    if status in _LETS_NOBODY_IN:
        return (
            f"{where} lets nobody in without the right key ({status}); set PREFECT_API_AUTH_STRING or PREFECT_API_KEY"
        )
    return f"{where} answers with an error ({status}); look into its log, and whether it is of Prefect's version here"


def wait_for_server(api_url: str, child: Child, *, timeout: float = 120) -> None:
    """Wait until the server that `child` is answers.

    raises    UnavailableError: it ended, or was silent for `timeout` seconds; quotes its log
    """
    deadline = time.monotonic() + timeout
    while child.running and time.monotonic() < deadline:
        if answers(api_url):
            return
        time.sleep(0.1)
    what = (
        f"did not answer within {timeout:.0f} s"
        if child.running
        else f"ended at its start (exit code {child.exit_code})"
    )
    msg = f"the Prefect server {what}; the last lines of {child.log}:\n{last_lines(child.log, 5) or '(empty)'}"
    raise UnavailableError(msg)
