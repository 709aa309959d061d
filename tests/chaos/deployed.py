"""An outlet that is deployed like the shipped ones, for tests of Prefect's outages."""

from streamz import Stream

from flows import outlet

__all__ = ["passing"]


@outlet(topics="numbers", group="passing", into="results")
def passing(source: Stream) -> Stream:
    """Pass every number on."""
    return source.map(lambda entry: {"n": entry["n"]})
