"""The option `dask` of outlets: connecting to a Dask cluster, or starting one on this machine, for the time of a run."""

import contextlib
from collections.abc import Iterator

from tasks.errors import SettingsError

__all__ = ["LOCAL", "check_dask", "connected"]

LOCAL = "local"


def check_dask(dask: str) -> str:
    """Return the address of a Dask scheduler, or 'local'; refuse anything else.

    raises    SettingsError
    """
    if dask != LOCAL and "://" not in dask:
        msg = f"dask: expected the address of a Dask scheduler, such as 'tcp://dask.example:8786', or 'local', got {dask!r}"
        raise SettingsError(msg)
    return dask


@contextlib.contextmanager
def connected(dask: str | None) -> Iterator[None]:
    """Have the pipelines that are started in this context use a Dask cluster: one with a scheduler elsewhere, or one started here.

    dask      the scheduler's address; 'local' for a worker process for each core, which only this run can reach; or None
    raises    SettingsError: Dask is not installed; UnavailableError: the scheduler does not answer
    """
    if dask is None:
        yield
        return
    try:
        from tasks.remote import dask_connection  # noqa: PLC0415 - Dask is an extra
    except ImportError as error:
        msg = "dask: expected Dask to be installed, found no package 'distributed'; install 'sluice[dask]'"
        raise SettingsError(msg) from error
    with dask_connection.of_local_cluster() if dask == LOCAL else dask_connection.of_address(dask):
        yield
