"""Prefect's server and process worker on this machine: settings, start, and reachability."""

import os
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from deployments.processes.forking import python
from deployments.servers import login
from deployments.servers.child import Child, last_lines
from deployments.servers.ledger import Ledger
from tasks.base.project_folder import up_command
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
    "path_of_runs",
    "prefect_server",
    "said_by",
    "settings_of_other_server",
    "settings_of_own_server",
    "wait_for_server",
    "worker",
]

POOL = "sluice"
_LOOPBACK = "127.0.0.1"
_REFUSED = (401, 403)

# For all processes that use a server, on any machine.
_CLIENT_SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # the minimum; deployments/automations.yaml relies on it
    # With these, a scheduled run starts 0.1 s after its time (median; defaults: up to 6 s), and one that is started by hand or
    # by an automation within 2 s. Prefect 3.9.1.
    "PREFECT_WORKER_QUERY_SECONDS": "2",
    "PREFECT_WORKER_PREFETCH_SECONDS": "20",
}

_SERVER_SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    # Leases in memory are lost with the server, and a run that cannot renew its lease is killed (3.9.1).
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    # By default, Prefect deletes events only; flow runs and logs stay forever.
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "true",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": "259200",  # 3 days, in seconds; the next one in ISO 8601
    "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": "P3D",
}


def settings_of_own_server(home: Path, port: int, *, secret: str) -> dict[str, str]:
    """Return the environment for a server on `port`, and for all processes that use it.

    Settings of the user stay, except for the server's address, its data folder, and the required `secret`.
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
        # The target of links. The server shows version 2 of the UI by default, but only at its root address; version 1
        # draws no diagrams (Prefect 3.9.1).
        "PREFECT_UI_URL": f"http://{_LOOPBACK}:{port}/v2",
        "PREFECT_SERVER_API_HOST": _LOOPBACK,
        "PREFECT_SERVER_API_PORT": str(port),
    }


def settings_of_other_server() -> dict[str, str]:
    """Return the environment for workers and flows that use the server of PREFECT_API_URL."""
    login.keep_from_others()
    return {**_CLIENT_SETTINGS, **os.environ}


def prefect_server(port: int, *, log: Path, env: Mapping[str, str], cwd: Path, is_forked: bool = False) -> Child:
    """Return a Prefect server that listens on loopback only.

    is_forked   whether the template of runs forks it, so that it shares the memory of what both import
    """
    module = "deployments.servers.serve"  # its docstring explains why not Prefect's command
    command = [*python(is_forked), module, "--host", _LOOPBACK, "--port", str(port)]
    return Child("Prefect server", command, log=log, env=env, cwd=cwd)


def worker(*, log: Path, env: Mapping[str, str], cwd: Path, is_forked: bool = False) -> Child:
    """Return a process worker of the pool whose runs use this interpreter; `is_forked` as for the server."""
    command = [*python(is_forked), "deployments.processes.worker", "--pool", POOL, "--type", "process"]
    return Child("worker", command, log=log, env={**env, "PATH": path_of_runs(env)}, cwd=cwd)


def path_of_runs(environ: Mapping[str, str]) -> str:
    """Return a PATH that begins with this interpreter's folder.

    The deployments' command is `python -m deployments.processes.run`, with the first `python` on the PATH, and the environment
    may not be activated.
    """
    beside_us, path = str(Path(sys.executable).parent), environ.get("PATH", os.defpath)
    return path if path.split(os.pathsep)[0] == beside_us else os.pathsep.join([beside_us, path])


def check_port(port: int) -> None:
    """Raise SettingsError with a cure if a program already listens on `port`."""
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
    make = f', or make up ARGS="--port {port}"' if up_command() == "make up" else ""
    return f"sluice up --port {port}{make}"


def answers(api_url: str, *, timeout: float = 2) -> bool:
    """Return whether a Prefect server answers at `api_url`, without importing Prefect."""
    try:
        with urllib.request.urlopen(f"{api_url.rstrip('/')}/health", timeout=timeout) as reply:  # noqa: S310 - http(s), from settings
            return reply.status == 200 and reply.read(16).strip() == b"true"  # noqa: PLR2004 - HTTP's OK
    except (OSError, ValueError):
        return False


def is_reachable(api_url: str) -> bool:
    """Return whether the server at `api_url`, the address in Prefect's settings, answers.

    With TLS, the request goes through Prefect's client, whose settings also have certificates, a key and headers.
    """
    if not api_url.startswith("https://"):
        return answers(api_url)
    from httpx import HTTPStatusError  # noqa: PLC0415 - as Prefect, for those who need it

    from flows.runtime.prefect_api import impatient_client  # noqa: PLC0415

    with impatient_client() as client:
        error = client.api_healthcheck()
    return error is None or (isinstance(error, HTTPStatusError) and error.response.status_code in _REFUSED)


def find_server(ledger: Ledger) -> str:
    """Return the address of the Prefect server in use: the configured one, or that of a running `sluice up`.

    raises    UnavailableError: no server answers
    """
    login.keep_from_others()
    if not os.environ.get("PREFECT_API_URL") and ledger.holder() and (url := ledger.api_url()):
        os.environ["PREFECT_API_URL"] = url
        if ledger.has_login():
            login.use_stored(ledger.folder)
    # Not earlier: Prefect reads its settings when it is imported.
    from prefect.settings import get_current_settings  # noqa: PLC0415

    url = str(get_current_settings().api.url or "")
    if url and is_reachable(url):
        return url
    msg = f"no Prefect server answers{f' at {without_password(url)}' if url else ''}; run `{up_command()}`, or set PREFECT_API_URL"
    raise UnavailableError(msg)


def said_by(error: "HTTPError") -> str:
    """Return an error of a request as one sentence without credentials."""
    from httpx import HTTPStatusError  # noqa: PLC0415 - only where there was one
    from prefect.settings import get_current_settings  # noqa: PLC0415

    where = f"the Prefect server at {without_password(str(get_current_settings().api.url))}"
    if not isinstance(error, HTTPStatusError):
        return f"{where} does not answer in time ({type(error).__name__}); try again, or look into its log"
    status = error.response.status_code
    if status in _REFUSED:
        return f"{where} requires another key ({status}); set PREFECT_API_AUTH_STRING or PREFECT_API_KEY"
    return f"{where} answers with an error ({status}); look into its log, and whether it is of Prefect's version here"


def wait_for_server(api_url: str, child: Child, *, timeout: float = 300) -> None:
    """Wait until the server that runs as `child` answers, which takes minutes on a machine that is busy with other work.

    raises    UnavailableError: the server ended, or did not answer within `timeout` seconds; quotes its log
    """
    deadline = time.monotonic() + timeout
    while child.running and time.monotonic() < deadline:
        if answers(api_url, timeout=10):
            return
        time.sleep(0.1)
    what = (
        f"did not answer within {timeout:.0f} s"
        if child.running
        else f"ended at its start (exit code {child.exit_code})"
    )
    msg = f"the Prefect server {what}; the last lines of {child.log}:\n{last_lines(child.log, 5) or '(empty)'}"
    raise UnavailableError(msg)
