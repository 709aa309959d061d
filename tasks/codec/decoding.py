"""How entries are decoded: the options `decode` and `frames` of outlets and sources, checked once."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, get_args

from tasks.checks import check_choice
from tasks.errors import SettingsError

__all__ = ["DEFAULT_DECODING", "Decoding", "Frames"]

Frames = Literal["pandas", "polars", "arrow"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How the fields of entries become values.

    frames    as what frames come: 'pandas', 'polars', or 'arrow' for a pyarrow Table
    raises    SettingsError: another choice, or polars where it is not installed
    """

    frames: Frames = "pandas"

    def __post_init__(self) -> None:
        check_choice(self.frames, get_args(Frames), name="frames")
        if self.frames == "polars" and find_spec("polars") is None:
            msg = "frames: expected polars to be installed for frames='polars', found it is not; pip install polars, or use 'arrow'"
            raise SettingsError(msg)


DEFAULT_DECODING = Decoding()
