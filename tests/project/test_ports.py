"""Ports for tests: no other program can take one between its reservation and its use."""

import socket

import pytest

from tests.support.ports import refusing_port, reserve_port

_LOOPBACK = "127.0.0.1"


def test_reserved_port_is_free_only_for_a_server_that_names_it() -> None:
    port = reserve_port()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((_LOOPBACK, port))
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((_LOOPBACK, port))
        server.listen()


def test_refusing_port_refuses_and_cannot_be_taken() -> None:
    port = refusing_port()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((_LOOPBACK, port), timeout=5)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind((_LOOPBACK, port))
