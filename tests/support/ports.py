"""TCP ports for tests: one that refuses connections, and reserved ones for servers."""

import functools
import socket

__all__ = ["refusing_port", "reserve_port"]

_LOOPBACK = "127.0.0.1"


def refusing_port() -> int:
    """Return a port that refuses every connection as long as this process lives."""
    return _bound().getsockname()[1]


@functools.cache
def _bound() -> socket.socket:
    """Return a socket that is bound and never listens, so that no other program can get its port."""
    bound = socket.socket()
    bound.bind((_LOOPBACK, 0))
    return bound


def reserve_port() -> int:
    """Return a port for a server that the test starts with this number within a minute.

    A connection that this side closes first leaves the port in TIME_WAIT. Until that ends, the kernel assigns the port to
    no socket that asks for any port, and a server can still bind it with SO_REUSEADDR, as uvicorn and Redis do.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((_LOOPBACK, 0))
        listener.listen(1)
        address = listener.getsockname()
        with socket.create_connection(address) as client:
            accepted, _ = listener.accept()
            accepted.close()
            assert client.recv(1) == b""
    return address[1]
