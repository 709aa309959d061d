"""Sluice's own errors, as one tree.

SluiceError
├── SettingsError        an address, name, duration or option is invalid
├── UnavailableError     Redis or a Prefect server does not answer
├── UnreadableTopicError a topic, or a key beside it, has a type or content that Sluice does not write
├── TopicFullError       a topic waits for its lagging readers; nothing was pushed
├── EncodeError          a value cannot be encoded; nothing was pushed
├── PoisonEntryError     bytes cannot be decoded, or exceed the limits
├── PipelineError        a pipeline is refused at its start, or failed
├── LeaseLostError       a consumer lost its lease; others may own its entries now
├── StateConflictError   a stored state differs from the consumer's; its entries are redelivered
├── PumpError            a pump failed too often, or returned something that it may not
├── RejectedError        raised by a function of a pipeline: another attempt would fail, too
└── RetryLater           raised by a pump or a sink: the other side asks to be called again later

A message names the expected input, the actual input, the place, and the data's fate or the remedy.
It never contains a payload, a URL with a password, or a credential.
"""

__all__ = [
    "EncodeError",
    "LeaseLostError",
    "PipelineError",
    "PoisonEntryError",
    "PumpError",
    "RejectedError",
    "RetryLater",
    "SettingsError",
    "SluiceError",
    "StateConflictError",
    "TopicFullError",
    "UnavailableError",
    "UnreadableTopicError",
]


class SluiceError(Exception):
    """The root of the tree: catch it to catch all of Sluice's own errors."""


class SettingsError(SluiceError, ValueError):
    """An address, name, duration or option is invalid."""


class UnavailableError(SluiceError, ConnectionError):
    """A server does not answer, or is not the expected kind of server."""


class UnreadableTopicError(SluiceError, RuntimeError):
    """A topic, or a key beside it, has a type or content that Sluice does not write; the message names the key."""


class TopicFullError(SluiceError, RuntimeError):
    """A topic with `when_full='wait'` is full of entries that a live group has not read; nothing was pushed."""


class EncodeError(SluiceError, TypeError):
    """A value cannot be encoded so that it decodes to an equal one; nothing was pushed."""


class PoisonEntryError(SluiceError, ValueError):
    """Bytes cannot be decoded, or exceed the limits; the bytes are kept unchanged.

    id      the entry's id; '' if unknown
    topic   the stream that holds the entry; '' if unknown
    """

    id: str = ""
    topic: str = ""


class PipelineError(SluiceError, RuntimeError):
    """A pipeline is refused before it runs, or failed while it ran."""


class LeaseLostError(SluiceError, RuntimeError):
    """A consumer's lease expired: other consumers may own its pending entries now."""


class StateConflictError(SluiceError, RuntimeError):
    """A group's stored state differs from its consumer's in memory; the run starts again with the stored one."""


class PumpError(SluiceError, RuntimeError):
    """A pump failed too often in a row, or returned a value that it may not return."""


class RejectedError(SluiceError, ValueError):
    """Raised by a function of a pipeline whose element will never succeed: it is not tried again, whatever `retry` says."""


class RetryLater(SluiceError):  # noqa: N818 - a request of the other side, and no error of the function
    """Raised by a pump or a sink whose other side asks to be called again later, such as by HTTP 429.

    In a pump, the tick is missed and has not failed; neither this inlet nor others with the same `limit_name` call the source
    before. In a node with `retry`, the call is repeated after that time, and does not count as a failed attempt.

    seconds   until the next call may be made
    """

    def __init__(self, seconds: float) -> None:
        if not 0 <= seconds < float("inf"):
            msg = f"RetryLater: expected seconds from 0 on, got {seconds!r}"
            raise SettingsError(msg)
        super().__init__(f"the source asks to be called again in {seconds:g} s")
        self.seconds = float(seconds)
