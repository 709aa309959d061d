"""Packing of commands into the Redis protocol, without copies of large values."""

from typing import Any

from redis import ConnectionPool
from redis.connection import HiredisRespSerializer, PythonRespSerializer
from redis.utils import HIREDIS_AVAILABLE

__all__ = ["PACKER"]

# Values from this size in bytes on are not copied: the copy would take longer than a system call of their own.
_LARGE = 65_536
# Commands with more arguments than this are not searched for large ones: in a push of 1,000 entries the search takes as long
# as packing.
_FEW = 64
_encode = ConnectionPool().get_encoder().encode


class _Packer:
    """Packs a command with a large value into pieces, of which that value is one, and all other commands as redis-py does.

    hiredis 3.5 copies each command twice, into memory that it takes from the system anew: 1.4 ms for a frame of 1.5 MB.
    """

    def __init__(self) -> None:
        self._pieces = PythonRespSerializer(_LARGE, _encode)
        self._whole: Any = HiredisRespSerializer() if HIREDIS_AVAILABLE else self._pieces

    def pack(self, *args: Any) -> list[bytes]:
        """Return the pieces of a command; redis-py sends them one after the other."""
        is_large = len(args) <= _FEW and any(type(arg) is bytes and len(arg) >= _LARGE for arg in args)
        return (self._pieces if is_large else self._whole).pack(*args)


PACKER = _Packer()
