"""The streamz node `sliding_window`, which can also keep the last elements of each key."""

from collections import deque
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Any

from streamz import Stream
from streamz import core as nodes

from tasks.pipeline import trust
from tasks.pipeline.awaiting import expect_plain, expects_results
from tasks.pipeline.receipts import Metadata, Receipt, receipts
from tasks.state.memory import ABSENT, Ghosts, as_metadata, as_origins
from tasks.state.remembering import keyed, remembers

__all__ = ["keyed_window", "sliding_window"]


class keyed_window(Stream):  # noqa: N801 - streamz names nodes like functions
    """The last `n` elements of each key, as a tuple: see `sliding_window`."""

    _graphviz_shape = "diamond"

    def __init__(
        self,
        upstream: Stream,
        n: int,
        *,
        key: Callable[[Any], Hashable] | Hashable,
        return_partial: bool = True,
        **kwargs: Any,
    ) -> None:
        self.n, self.key, self.partial = n, key, return_partial
        self._windows: dict[Hashable, deque[tuple[Any, Metadata]]] = {}
        self.touched: set[Hashable] = set()
        """Keys whose window has changed since the last cut."""
        super().__init__(upstream, **kwargs)

    def update(self, x: Any, who: Stream | None = None, metadata: Metadata = None) -> list[Any]:  # noqa: ARG002
        """Put an element into the window of its key, and emit the window."""
        key = self.key(x) if callable(self.key) else x[self.key]
        expect_plain(key, self, "the key function")
        window = self._windows.setdefault(key, deque())
        self._retain_refs(metadata)
        window.append((x, metadata))
        self.touched.add(key)
        oldest = window.popleft() if len(window) > self.n else None
        try:
            if len(window) < self.n and not self.partial:
                return []
            members = [one for _, each in window for one in each or ()]
            return self._emit(tuple(element for element, _ in window), members)
        finally:
            if oldest is not None:
                self._release_refs(oldest[1])

    def keys_of(self, failed: Collection[Receipt]) -> list[Hashable]:
        """Return the keys whose windows hold any of these receipts."""
        among = set(failed)
        return [
            key
            for key, window in self._windows.items()
            if not among.isdisjoint(one for _, metadata in window for one in receipts(metadata))
        ]

    def stored_state(self, key: Hashable) -> Any:
        """Return what to store of a key, or ABSENT."""
        if key not in self._windows:
            return ABSENT
        return [(element, as_origins(metadata)) for element, metadata in self._windows[key]]

    def restore_states(self, states: Mapping[Hashable, Any], ghosts: Ghosts) -> None:
        """Set all windows."""
        for key, window in states.items():
            self._windows[key] = deque((element, as_metadata(origins, ghosts)) for element, origins in window)
            for _, metadata in self._windows[key]:
                self._retain_refs(metadata)


@Stream.register_api()
def sliding_window(
    upstream: Stream,
    n: int,
    return_partial: bool = True,  # noqa: FBT001, FBT002 - streamz' signature
    *,
    key: Callable[[Any], Hashable] | Hashable | None = None,
    **kwargs: Any,
) -> Stream:
    """Emit tuples of the last `n` elements, as streamz does; with `key`, of the last `n` elements of the same key.

    return_partial   whether to emit tuples of fewer elements at the beginning
    key              a function of an element that returns its key, or what to look up in the element (`x[key]`)
    """
    if key is None:
        return nodes.sliding_window(upstream, n, return_partial, **kwargs)
    return keyed_window(upstream, n, key=key, return_partial=return_partial, **kwargs)


trust(keyed_window, keeps=True)
expects_results(keyed_window, "key")
remembers(keyed_window, keyed, parameters=["n", "partial"], lasts=True)
