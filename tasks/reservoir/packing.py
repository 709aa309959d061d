"""Packing of commands into the Redis protocol, as redis-py does it, but with fewer copies and checks."""

from typing import Any

import hiredis
from redis import ConnectionPool
from redis.connection import HiredisRespSerializer, PythonRespSerializer

__all__ = ["PACKER"]

# Values from this size in bytes on are not copied: the copy would take longer than a system call of their own.
_LARGE = 65_536
# Commands with more arguments than this are not searched for large ones: a push of 1,000 entries has 3,000 small ones.
_FEW = 64
_PLAIN = frozenset((bytes, str, int, float))


class _Packer:
    """Packs a command with a large value into pieces, of which that value is one, and every other command into one piece.

    hiredis 3.5 copies each command twice, into memory that it takes from the system anew: 1.4 ms for a frame of 1.5 MB.
    redis-py 8.1 looks at each argument in Python before that, which takes longer than hiredis does.
    """

    def __init__(self) -> None:
        self._in_pieces = PythonRespSerializer(_LARGE, ConnectionPool().get_encoder().encode).pack
        self._by_redis_py = HiredisRespSerializer().pack

    def pack(self, *args: Any) -> list[bytes]:
        """Return the pieces of a command; redis-py sends them one after the other.

        raises    redis.DataError: an argument that Redis cannot hold
        """
        if not _PLAIN.issuperset(map(type, args)):
            return self._by_redis_py(*args)
        if len(args) <= _FEW and any(type(arg) is bytes and len(arg) >= _LARGE for arg in args):
            return self._in_pieces(*args)
        return [hiredis.pack_command((*args[0].split(), *args[1:]))]


PACKER = _Packer()
