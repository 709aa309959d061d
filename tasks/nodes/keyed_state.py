"""The streamz node `keyed_state`: an accumulator with a state of its own for each key."""

import copy
from collections.abc import Callable, Hashable, Mapping
from datetime import timedelta
from typing import Any

from streamz import Stream

from tasks.base.ids import id_numbers
from tasks.checks import seconds
from tasks.errors import SettingsError
from tasks.pipeline import trust
from tasks.pipeline.awaiting import PLAIN, expect_plain, expects_results
from tasks.pipeline.fusible import fusible
from tasks.pipeline.receipts import Metadata, origins
from tasks.state.memory import ABSENT, Ghosts
from tasks.state.remembering import keyed, remembers

__all__ = ["keyed_state"]

_IMMUTABLE = (type(None), bool, int, float, str, bytes, tuple, frozenset)


@trust
@fusible
@Stream.register_api()
class keyed_state(Stream):  # noqa: N801 - streamz names nodes like functions
    """Accumulate a state for each key, and emit the key with its new state.

    The states survive restarts and crashes, as that of `accumulate`. A cut stores those that have changed only.

    function       called with the state of the element's key and the element; returns the new state. A state of None forgets
                   the key
    key            a function of an element that returns its key, or what to look up in the element (`x[key]`)
    start          the state of a new key: a value, which is copied, or a function without parameters
    returns_state  the function returns a pair, the new state and what to emit; that is emitted without the key
    expire         forget a key without an element for so long, such as '1d', by the time of entries
    raises         SettingsError: a duration that cannot be used
    """

    _graphviz_shape = "box"

    def __init__(
        self,
        upstream: Stream,
        function: Callable[..., Any],
        *,
        key: Callable[[Any], Hashable] | Hashable,
        start: Any = None,
        returns_state: bool = False,
        expire: str | float | timedelta | None = None,
        **kwargs: Any,
    ) -> None:
        if not callable(function):
            msg = f"keyed_state: expected a function of a state and an element, got {function!r}"
            raise SettingsError(msg)
        self.func = function
        self.key = key
        self.returns_state = returns_state
        self.expire_ms = None if expire is None else round(1000 * seconds(expire, name="expire", least=0.001))
        self._new = start if callable(start) else lambda: start if type(start) in _IMMUTABLE else copy.deepcopy(start)
        # The key used last comes last.
        self._states: dict[Hashable, tuple[int, Any]] = {}
        self._now = 0
        self.touched: set[Hashable] = set()
        """Keys whose state has changed since the last cut."""
        stream_name = kwargs.pop("stream_name", None)
        self.kwargs = kwargs
        super().__init__(upstream, stream_name=stream_name)

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._states)

    def __bool__(self) -> bool:
        """Return True: a node without keys is a node."""
        return True

    def update(self, x: Any, who: Stream | None = None, metadata: Metadata = None) -> list[Any]:  # noqa: ARG002
        """Change the state of the element's key, and emit it."""
        return self._emit(self.work(x, metadata), metadata=metadata)

    def work(self, x: Any, metadata: Metadata) -> Any:
        """Change the state of the element's key, and return what to emit."""
        find = self.key
        key = find(x) if callable(find) else x[find]
        if type(key) not in PLAIN:
            expect_plain(key, self, "the key function")
        if self.expire_ms is not None:
            self._forget_expired(self.expire_ms, metadata)
        states, more = self._states, self.kwargs
        known = states.get(key)
        state = self._new() if known is None else known[1]
        result = self.func(state, x, **more) if more else self.func(state, x)
        if type(result) not in PLAIN:
            expect_plain(result, self, "the function")
        state, emitted = result if self.returns_state else (result, (key, result))
        self.touched.add(key)
        if self.expire_ms is not None or state is None:
            states.pop(key, None)
        if state is not None:
            states[key] = self._now, state
        return emitted

    def _forget_expired(self, expire_ms: int, metadata: Metadata) -> None:
        self._now = max([self._now, *(id_numbers(id_)[0] for _, id_ in origins(metadata))])
        while self._states:
            key = next(iter(self._states))
            if self._states[key][0] + expire_ms >= self._now:
                break
            del self._states[key]
            self.touched.add(key)

    def stored_state(self, key: Hashable) -> Any:
        """Return what to store of a key, or ABSENT."""
        return self._states.get(key, ABSENT)

    def restore_states(self, states: Mapping[Hashable, Any], ghosts: Ghosts) -> None:  # noqa: ARG002
        """Set all states."""
        self._states = dict(sorted(states.items(), key=lambda item: item[1][0]))
        self._now = max((time for time, _ in states.values()), default=0)


expects_results(keyed_state, "func", "key")
remembers(keyed_state, keyed, parameters=["returns_state"], lasts=True)
