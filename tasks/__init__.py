"""What flows are made of: the codec, the reservoir, pumps, consumers and the streamz nodes on them.

Importing it gives streamz `Stream.from_redis`, `Stream.engine`, `.to_redis` and `.to_parquet`.
"""

from tasks import engine, parquet, sinks, source  # noqa: F401 - they register themselves with streamz
from tasks.entry import Entry, has
from tasks.errors import (
    EncodeError,
    LeaseLostError,
    PipelineError,
    PoisonEntryError,
    PumpError,
    SettingsError,
    SluiceError,
    TopicFullError,
    UnavailableError,
)
from tasks.reservoir import Reservoir

__all__ = [
    "EncodeError",
    "Entry",
    "LeaseLostError",
    "PipelineError",
    "PoisonEntryError",
    "PumpError",
    "Reservoir",
    "SettingsError",
    "SluiceError",
    "TopicFullError",
    "UnavailableError",
    "has",
]
