"""A proxy in front of a Redis that cuts connections at random, also after a request was executed, or stands still."""

import random
import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

__all__ = ["Proxy"]

_CHUNK = 1 << 16


class Proxy:
    """Forwards from a unix socket of its own to that of a Redis, and cuts chunks of bytes at random.

    A request is cut before the server has received it in full, a reply after the server has executed the request. The
    seed determines the chunks of each connection.

    folder   where its socket is
    cut      the probability that a chunk is cut
    """

    def __init__(self, folder: Path, server: Path, *, cut: float = 0.0, seed: int = 0) -> None:
        self._path, self._server, self._cut, self._seed = folder / "proxy.sock", server, cut, seed
        self.url = f"unix://{self._path}"
        self.lost_requests = 0
        self.lost_replies = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._threads: list[threading.Thread] = []
        self._closing = threading.Event()
        self._is_hole = self._delivers = False
        self.swallowed = 0

    def __enter__(self) -> Self:
        self._listener.bind(str(self._path))
        self._listener.listen(64)
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    @contextmanager
    def hole(self, *, deliver: bool) -> Iterator[None]:
        """Forward nothing for a while, unnoticed by both sides: connections stay open, and new ones are accepted.

        deliver    whether bytes sent in this time arrive afterwards, also from clients that have given up; else their
                   connections end then
        """
        self._delivers, self._is_hole = deliver, True
        try:
            yield
        finally:
            self._is_hole = False

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        number = 0
        while not self._closing.is_set():
            if _readable([self._listener], 0.05):
                client, _ = self._listener.accept()
                self._start(self._pass_on, client, random.Random(f"{self._seed} {number}"))
                number += 1

    def _pass_on(self, client: socket.socket, chance: random.Random) -> None:
        """Forward in both directions until one side hangs up or a chunk is cut."""
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(str(self._server))
            held: list[tuple[socket.socket, bytes]] = []
            sides = [client, server]
            while not self._closing.is_set():
                ready = _readable(sides, 0.02)
                if held and not self._is_hole:
                    if self._delivers:
                        _deliver(held)
                    if not self._delivers or client not in sides:
                        return
                for source in ready:
                    other = server if source is client else client
                    try:
                        data = source.recv(_CHUNK)
                        if not data and held and source is client:
                            sides.remove(client)
                            break
                        if not data:
                            return
                        if self._is_hole:
                            held.append((other, data))
                            self.swallowed += 1
                            continue
                        if chance.random() < self._cut:
                            other.sendall(data[: chance.randrange(len(data))])  # a part, or nothing
                            if source is client:
                                self.lost_requests += 1
                            else:
                                self.lost_replies += 1
                            return
                        other.sendall(data)
                    except OSError:
                        return


def _readable(sockets: list[socket.socket], timeout: float) -> list[socket.socket]:
    """Return the sockets that have data or were closed, waiting up to `timeout` seconds; `select.select` ends at descriptor 1,023."""
    with selectors.PollSelector() as selector:
        for each in sockets:
            selector.register(each, selectors.EVENT_READ)
        return [key.fileobj for key, _ in selector.select(timeout)]  # type: ignore[misc]


def _deliver(held: list[tuple[socket.socket, bytes]]) -> None:
    for to, data in held:
        with suppress(OSError):  # the client has given up
            to.sendall(data)
    held.clear()
