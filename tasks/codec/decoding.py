"""How entries are decoded: the options `decode` and `frames` of outlets and sources, checked once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, get_args

from tasks.checks import check_choice
from tasks.errors import SettingsError

__all__ = ["DEFAULT_DECODING", "DecodeFunction", "DecodeWord", "Decoding", "Frames", "RawFields"]

Frames = Literal["pandas", "polars", "arrow"]
DecodeWord = Literal["auto", "text", "bytes", "json"]
RawFields = list[tuple[bytes, bytes]]
"""The fields of an entry as Redis has them: name and data, in order, repeated names too."""
DecodeFunction = Callable[[RawFields], Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How the fields of entries become values.

    decode    'auto': each field is Arrow, JSON, other text, or bytes; 'text' or 'json': every field, and any other is refused;
              'bytes': every field untouched; or a function of all fields of an entry
    frames    the type of decoded frames: 'pandas', 'polars', or 'arrow' for a pyarrow Table
    lists_repeated   return the values of a repeated field as a list, instead of refusing the entry
    raises    SettingsError: another choice, or polars where it is not installed
    """

    decode: DecodeWord | DecodeFunction = "auto"
    frames: Frames = "pandas"
    lists_repeated: bool = False

    def __post_init__(self) -> None:
        if not callable(self.decode):
            check_choice(self.decode, get_args(DecodeWord), name="decode")
        check_choice(self.frames, get_args(Frames), name="frames")
        if self.frames == "polars" and find_spec("polars") is None:
            msg = "frames: expected polars to be installed for frames='polars', found it is not; pip install polars, or use 'arrow'"
            raise SettingsError(msg)


DEFAULT_DECODING = Decoding()
