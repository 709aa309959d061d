"""`sluice metrics`: serves the metrics to Prometheus, or prints the dashboard and the alert rules."""

from contextlib import suppress
from importlib import resources

import typer
from rich.console import Console

from deployments.metrics.exporter import Exporter
from tasks.reservoir.connection import connect
from tasks.settings import metrics_port, redis_url

__all__ = ["metrics", "print_file"]


def metrics(console: Console, *, host: str, port: int | None) -> None:
    """Serve metrics until Ctrl-C.

    port      None: that of the settings, also where they switch the exporter of `sluice up` off
    raises    SettingsError: the port cannot be used, or no Redis is named
    """
    redis_url()  # an invalid address is refused now; a server that does not answer is a metric
    with Exporter(lambda: connect(redis_url(), retries=1), host=host, port=port or metrics_port() or 9464) as exporter:
        console.print(f"metrics at {exporter.url}; Ctrl-C stops", highlight=False, markup=False, soft_wrap=True)
        with suppress(KeyboardInterrupt):
            exporter.wait()


def print_file(name: str) -> None:
    """Print a file of the folder `deployments/metrics` as it is."""
    typer.echo(resources.files("deployments.metrics").joinpath(name).read_text(encoding="utf-8"), nl=False)
