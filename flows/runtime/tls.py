"""One TLS context for all of Prefect's clients in a process."""

import functools
import ssl
from types import SimpleNamespace
from typing import Any

import certifi
from prefect.client import orchestration
from prefect.settings import PREFECT_API_SSL_CERT_FILE

__all__ = ["load_certificates", "share_tls_context"]

_clients: Any = orchestration  # the module's `ssl` is not among its public names


def share_tls_context() -> None:
    """Make Prefect's clients use one TLS context, also for `http://`, where none is needed.

    Prefect 3.9.1 loads all certificates for each client: 2 MB and 20 ms, four times in a run. Contexts that are made with the
    same arguments are shared; nothing changes one that is in use.
    """
    if not isinstance(_clients.ssl, SimpleNamespace):
        _clients.ssl = SimpleNamespace(
            SSLContext=ssl.SSLContext,
            CERT_NONE=ssl.CERT_NONE,
            create_default_context=functools.cache(ssl.create_default_context),
        )


def load_certificates() -> None:
    """Create the shared TLS context before the first client does."""
    share_tls_context()
    _clients.ssl.create_default_context(cafile=PREFECT_API_SSL_CERT_FILE.value() or certifi.where())
