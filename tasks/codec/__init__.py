"""Values and bytes: plain values as JSON, frames and arrays as Arrow IPC streams."""

from tasks.codec.decoding import Decoding
from tasks.codec.fields import decode_fields
from tasks.codec.limits import Limits
from tasks.codec.values import decode, encode, encode_fields

__all__ = ["Decoding", "Limits", "decode", "decode_fields", "encode", "encode_fields"]
