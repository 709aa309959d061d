"""Serves the metrics over HTTP, for Prometheus to scrape."""

import threading
from collections.abc import Callable, Iterable
from typing import Any, Self
from wsgiref.simple_server import WSGIServer

import redis
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import start_http_server
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from deployments.metrics.families import families
from deployments.metrics.reading import Reader
from tasks.errors import SettingsError
from tasks.settings import METRICS_PORT

__all__ = ["Exporter"]


class Exporter:
    """An HTTP server with all metrics at /metrics; a context manager. Each scrape is a reading of Redis.

    connect   returns a client, once Redis answers
    raises    SettingsError: the port cannot be used
    """

    def __init__(self, connect: Callable[[], redis.Redis], *, host: str, port: int) -> None:
        self._host = host
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Reservoir(Reader(connect)))
        try:
            self._server: WSGIServer
            self._thread: threading.Thread
            self._server, self._thread = start_http_server(port, addr=host, registry=registry)
        except OSError as error:
            msg = (
                f"metrics: expected port {port} on {host} to be free, got {error.strerror or type(error).__name__!r}; "
                f"choose another one with {METRICS_PORT}=PORT, or switch metrics off with {METRICS_PORT}=off"
            )
            raise SettingsError(msg) from error

    @property
    def url(self) -> str:
        """The address to scrape."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._server.server_port}/metrics"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def wait(self) -> None:
        """Wait until the server ends."""
        self._thread.join()


class _Reservoir(Collector):
    """The collector that the registry calls at each scrape."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def collect(self) -> Iterable[Metric]:
        return families(self._reader.read())

    def describe(self) -> Iterable[Any]:
        return ()
