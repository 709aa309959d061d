"""Values and bytes: plain values as JSON, frames and arrays as Arrow IPC streams; states of pipelines as msgpack."""

from tasks.codec.decoding import Decoding
from tasks.codec.fields import decode_fields
from tasks.codec.limits import Limits
from tasks.codec.state_values import Extension, StateCodec, decode_state, encode_state
from tasks.codec.values import decode, encode, encode_fields

__all__ = [
    "Decoding",
    "Extension",
    "Limits",
    "StateCodec",
    "decode",
    "decode_fields",
    "decode_state",
    "encode",
    "encode_fields",
    "encode_state",
]
