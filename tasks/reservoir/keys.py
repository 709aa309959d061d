"""The names of the streams that belong to a topic."""

__all__ = ["dead_topic", "retried_topic", "retry_topic"]


def dead_topic(topic: str, group: str) -> str:
    """Return the topic that keeps what `group` could not process of `topic`."""
    return f"{topic}:dead:{group}"


def retry_topic(topic: str, group: str) -> str:
    """Return the topic that keeps what is replayed of the dead letters: only `group` reads it, beside `topic`."""
    return f"{topic}:retry:{group}"


def retried_topic(stream: str, group: str) -> str | None:
    """Return the topic of which `stream` is the retry topic of `group`; None if it is no such one.

    >>> retried_topic("market:retry:movers", "movers"), retried_topic("market", "movers")
    ('market', None)
    """
    topic, _, of_group = stream.partition(":retry:")
    return topic if of_group == group else None
