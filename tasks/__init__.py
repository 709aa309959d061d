"""What flows are made of: the codec, the reservoir, pumps, consumers and the streamz nodes on them.

Importing it gives streamz `Stream.from_redis`, `Stream.engine`, `.to_redis`, `.to_sink` and `.map_in_processes`. `.to_parquet` comes by itself when it is
called, as it needs pandas and pyarrow, half a second that a run of plain values need not spend.
"""

import sys

from tasks.errors import (
    EncodeError,
    LeaseLostError,
    PipelineError,
    PoisonEntryError,
    PumpError,
    RejectedError,
    RetryLater,
    SettingsError,
    SluiceError,
    StateConflictError,
    TopicFullError,
    UnavailableError,
    UnreadableTopicError,
)
from tasks.nodes import (  # noqa: F401 - they register themselves with streamz
    engine,
    keyed_state,
    map_in_processes,
    sliding_window,
    to_sink,
)
from tasks.nodes import from_redis as source  # noqa: F401 - they register themselves with streamz
from tasks.nodes import to_redis as sinks  # noqa: F401 - they register themselves with streamz
from tasks.pump.cursor import Cursor
from tasks.reservoir import Reservoir
from tasks.reservoir.entry import Entry, has
from tasks.sinks.deliveries import Delivery

if "streamz.dask" in sys.modules:  # streamz imports it if Dask is installed
    from tasks.remote import dask_nodes  # noqa: F401 - it registers nodes with streamz

__all__ = [
    "Cursor",
    "Delivery",
    "EncodeError",
    "Entry",
    "LeaseLostError",
    "PipelineError",
    "PoisonEntryError",
    "PumpError",
    "RejectedError",
    "Reservoir",
    "RetryLater",
    "SettingsError",
    "SluiceError",
    "StateConflictError",
    "TopicFullError",
    "UnavailableError",
    "UnreadableTopicError",
    "has",
]
