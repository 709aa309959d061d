"""Everything Sluice raises on purpose, as one tree.

SluiceError
├── SettingsError        an address, name, duration or option that cannot be used
├── UnavailableError     Redis (or a Prefect server) does not answer
├── UnreadableTopicError a topic, or a key beside it, that does not hold what Sluice writes there
├── TopicFullError       a topic whose readers lag, and that waits for them; nothing was pushed
├── EncodeError          a value that no bytes stand for; nothing was pushed
├── PoisonEntryError     bytes that no value stands for, or that are refused by the limits
├── PipelineError        a pipeline that cannot be trusted with acks, or that failed
├── LeaseLostError       a consumer that was taken for dead; its entries belong to others now
├── StateConflictError   a stored state that is another one than the consumer's; its entries are redelivered
└── PumpError            a pump that failed too often, or broke its promise

A message says what was expected, what came, where, and what happened to the data or what to do.
It never carries a payload, a URL with a password, or a credential.
"""

__all__ = [
    "EncodeError",
    "LeaseLostError",
    "PipelineError",
    "PoisonEntryError",
    "PumpError",
    "SettingsError",
    "SluiceError",
    "StateConflictError",
    "TopicFullError",
    "UnavailableError",
    "UnreadableTopicError",
]


class SluiceError(Exception):
    """The root: catch it to catch everything Sluice raises on purpose."""


class SettingsError(SluiceError, ValueError):
    """An address, a name, a duration or an option that cannot be used as it is."""


class UnavailableError(SluiceError, ConnectionError):
    """A server that does not answer, or not as the server it should be."""


class UnreadableTopicError(SluiceError, RuntimeError):
    """A topic, or a key beside it, that does not hold what Sluice writes there; the message names the key."""


class TopicFullError(SluiceError, RuntimeError):
    """A topic declared `when_full='wait'` holds as much as it may that a live group has not read."""


class EncodeError(SluiceError, TypeError):
    """A value that cannot become bytes and come back equal; nothing was pushed."""


class PoisonEntryError(SluiceError, ValueError):
    """Bytes that cannot become a value, or that the limits refuse; the bytes are kept as they are.

    id   of the entry they are in; '' where that is not known
    """

    id: str = ""


class PipelineError(SluiceError, RuntimeError):
    """A pipeline that is refused before it runs, or that failed while it ran."""


class LeaseLostError(SluiceError, RuntimeError):
    """A consumer's lease ran out: its pending entries may be somebody else's by now."""


class StateConflictError(SluiceError, RuntimeError):
    """The stored state of a group is another one than its consumer has in memory; the run begins again with the stored one."""


class PumpError(SluiceError, RuntimeError):
    """A pump that failed too often in a row, or that returned what no pump may return."""
