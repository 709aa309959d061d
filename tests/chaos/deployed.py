"""An outlet that is deployed as the shipped ones are, for tests of what happens to Prefect under it."""

from streamz import Stream

from flows import outlet

__all__ = ["passing"]


@outlet(topics="numbers", group="passing", into="results")
def passing(source: Stream) -> Stream:
    """Every number as it is."""
    return source.map(lambda entry: {"n": entry["n"]})
