"""A stand-in for streamz' reference counter."""


class Ref:
    """A reference counter for metadata: the number of holds on an entry."""

    def __init__(self) -> None:
        self.held = 0

    def retain(self, n: int = 1) -> None:
        self.held += n

    def release(self, n: int = 1) -> None:
        self.held -= n
