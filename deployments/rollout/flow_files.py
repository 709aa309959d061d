"""Imports each flow file once for all its deployments; `python -m deployments.rollout.flow_files` runs `prefect deploy` so.

Prefect imports an entrypoint's file for each deployment (3.9.1). For fifty inlets in one file, that took a minute of CPU at each
`sluice up`.
"""

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["import_each_file_once", "main"]


@contextmanager
def import_each_file_once() -> Iterator[None]:
    """Let Prefect import each file once while in this context."""
    from prefect.utilities import importtools  # noqa: PLC0415 - a second; most who import this module need no Prefect

    load = importtools.load_script_as_module
    importtools.load_script_as_module = functools.cache(load)
    try:
        yield
    finally:
        importtools.load_script_as_module = load


def main() -> None:
    """Run `prefect deploy` with the arguments of this process."""
    from prefect.cli import app  # noqa: PLC0415 - as above

    sys.argv = ["prefect", "--no-prompt", "deploy", *sys.argv[1:]]
    with import_each_file_once():
        app()


if __name__ == "__main__":
    main()
