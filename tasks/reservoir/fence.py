"""Fences: proofs of ownership that scripts check before they write for a consumer."""

from dataclasses import dataclass

__all__ = ["Fence"]


@dataclass(frozen=True, slots=True)
class Fence:
    """A consumer's lease key, and the token that the key holds while the consumer is alive.

    A script refuses the write if the key holds another token; an absent key does not refuse it.
    """

    group: str
    lease: str
    token: str
