"""Cursors, as pumps see them: the place in a source up to which entries were pushed."""

from typing import Any

__all__ = ["Cursor"]


class Cursor:
    """What a pump remembers from one call to the next, such as the id of the newest trade that it has fetched.

    A pump with a parameter of this type gets its cursor at each call, and assigns its new value. The value is stored by the
    script that pushes the entries of that call: both or neither. A call that fails, or whose push is refused, leaves it as it was.

        @inlet(topic="trades", every="5s")
        def trades(since: Cursor = Cursor(0)):
            new = fetch(after=since.value)
            since.value = new[-1]["id"] if new else since.value
            return new

    value    any value that a field of an entry can hold; before the first push, that of the parameter's default, else None
    """

    __slots__ = ("value",)

    def __init__(self, value: Any = None) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"Cursor({self.value!r})"
