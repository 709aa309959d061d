"""A stand-in for what counts the holders of an element in streamz."""


class Ref:
    """What streamz carries in the metadata: counts who holds an entry."""

    def __init__(self) -> None:
        self.held = 0

    def retain(self, n: int = 1) -> None:
        self.held += n

    def release(self, n: int = 1) -> None:
        self.held -= n
