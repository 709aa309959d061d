"""The `sluice` command. Whatever is heavy is imported by the command that needs it."""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

__all__ = ["app", "main"]

app = typer.Typer(
    name="sluice",
    help="Periodic Python functions as durable streams, streams as live results.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # keeps rich out of `sluice --help`
    pretty_exceptions_enable=False,
)

DEBUG = "SLUICE_DEBUG"


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help=f"Show the traceback of an error. [{DEBUG}=1]")] = False,  # noqa: FBT002
) -> None:
    if debug:
        os.environ[DEBUG] = "1"


@app.command()
def up(
    port: Annotated[
        int, typer.Option(help="Where the Prefect server listens, on loopback only.", min=1, max=65535)
    ] = 4200,
) -> None:
    """Run it all on this machine: Redis, Prefect, every inlet and outlet, until Ctrl-C.

    Uses the Redis that SLUICE_REDIS_URL names, and the Prefect server that PREFECT_API_URL names, and starts what is
    not named. Keeps its data in .sluice/ (or SLUICE_STATE_DIR).
    """
    from rich.console import Console  # noqa: PLC0415

    from deployments.local import up as run  # noqa: PLC0415

    raise typer.Exit(run(Console(), root=Path(__file__).resolve().parents[1], port=port))


@app.command()
def status() -> None:
    """Show the servers, the last run of every deployment, and how far each group has come.

    Exit code 1 if Redis or Prefect does not answer.
    """
    from rich.console import Console  # noqa: PLC0415

    from deployments.status import status as show  # noqa: PLC0415

    raise typer.Exit(0 if show(Console()) else 1)


@app.command()
def peek(
    topic: Annotated[str, typer.Argument(help="The topic, such as busiest, or market:dead:movers.")],
    n: Annotated[int, typer.Option("-n", help="How many entries.", min=1, max=10_000)] = 1,
) -> None:
    """Print the newest entries of a topic, decoded, oldest first."""
    from rich.console import Console  # noqa: PLC0415

    from deployments.status import peek as show  # noqa: PLC0415

    show(Console(), topic, n)


@app.command()
def restart(
    name: Annotated[str, typer.Argument(help="The deployment, such as movers, or movers/main.")],
    timeout: Annotated[float, typer.Option(help="How many seconds to wait for the end of what runs.", min=1)] = 90,
) -> None:
    """Cancel what runs of a deployment, wait until it has finished what is in flight, and run it again.

    An outlet goes on where it stopped, with its code and prefect.yaml as they are deployed now.
    """
    from rich.console import Console  # noqa: PLC0415

    from deployments.restart import restart as run  # noqa: PLC0415

    run(Console(), name, timeout=timeout)


@app.command()
def new(
    kind: Annotated[Literal["inlet", "outlet"], typer.Argument(help="What to write.")],
    name: Annotated[
        str, typer.Argument(help="Its name: flows/NAME.py, tests/test_NAME.py and the deployment NAME/main.")
    ],
    topic: Annotated[
        str | None, typer.Option(help="The topic it pushes to [NAME], or reads [machine].", show_default=False)
    ] = None,
) -> None:
    """Write an inlet or an outlet to begin with, its deployment in prefect.yaml, and a test that passes."""
    from rich.console import Console  # noqa: PLC0415

    from deployments.scaffold import new as write  # noqa: PLC0415

    write(Console(), kind, name, root=Path(__file__).resolve().parents[1], topic=topic)


def main() -> None:
    """Run the command; say what is wrong in one sentence, not in a traceback."""
    try:
        app()
    except BrokenPipeError:  # `sluice peek ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        from tasks.errors import SluiceError  # noqa: PLC0415 - the package loads pandas and streamz: 0.6 s of --help

        if os.environ.get(DEBUG) or not isinstance(error, SluiceError):
            raise
        print(f"sluice: {error}", file=sys.stderr)  # noqa: T201 - a command's error
        sys.exit(1)
