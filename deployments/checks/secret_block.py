"""Check the Secret block in Prefect that holds the address of Redis for runs without `SLUICE_REDIS_URL`. Read-only."""

from typing import TYPE_CHECKING, Any

from deployments.checks.findings import Finding, failure, fine, warning
from tasks.errors import SluiceError
from tasks.reservoir.connection import connect
from tasks.settings import REDIS_URL, SECRET_BLOCK, check_url, redis_url, without_password

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

__all__ = ["check_secret"]

_CHECK = "Secret block"
_NAMED = f"the Secret block {SECRET_BLOCK!r}"
_CORRECT = f"correct {_NAMED} in the Prefect UI (Blocks)"


def check_secret(client: "SyncPrefectClient") -> Finding:
    """Check that the block, if it exists, holds the address of a Redis that answers, and the same one that is used here."""
    from prefect.exceptions import ObjectNotFound  # noqa: PLC0415 - Prefect reads its settings when it is imported

    try:
        block = client.read_block_document_by_name(SECRET_BLOCK, "secret")
    except ObjectNotFound:
        return fine(_CHECK, f"there is no {SECRET_BLOCK!r}: a run finds Redis by the {REDIS_URL} of its worker")
    try:
        url = check_url(str(block.data.get("value")), where=_NAMED)
    except SluiceError as error:
        return failure(_CHECK, error, _CORRECT)
    try:
        named = _identity(url, named=_NAMED)
    except SluiceError as error:
        return failure(_CHECK, error)
    summary = f"{SECRET_BLOCK!r} names database {named[1]} of Redis at {without_password(url)}, which answers"
    try:
        url = redis_url()
        used = _identity(url)
    except SluiceError:  # check_redis reports it
        return fine(_CHECK, f"{summary}; only runs read it")
    if used == named:
        return fine(_CHECK, summary)
    other = f"database {used[1]} of Redis at {without_password(url)}"
    return warning(_CHECK, f"{summary}; here it is {other}", f"{_CORRECT}, or set {REDIS_URL} to the same everywhere")


def _identity(url: str, *, named: str = REDIS_URL) -> tuple[str, int]:
    """Return the server's identity and the database, which do not depend on the address."""
    with connect(url, retries=0, named=named) as client:
        info: Any = client.info("server")
        return info["run_id"], int(client.get_connection_kwargs().get("db") or 0)
