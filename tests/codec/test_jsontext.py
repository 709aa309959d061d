"""The fast JSON decoder returns the same values as Python's own, and the fast encoder the same text as the careful one."""

import enum
import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from tasks.codec.json_text import from_json, to_flat_json, to_json
from tasks.errors import EncodeError

TOKENS = [
    *'{}[]:,"\\ \n\t', "0", "1", "-", "+", ".", "e", "E", "9" * 19, "null", "true", "false", "NaN", "Infinity",
    '"a"', '"b":', "\\u00e9", "\\ud83d", "\\ude00", "\\n", "é", "\x00", "\x7f",
]  # fmt: skip
numbers = st.builds(
    lambda form, number: form % number, st.sampled_from(["%r", "%.17g", "%.25e", "%.3f", "%.0f"]), st.floats()
)
integers = st.integers(-(10**40), 10**40).map(str)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
texts = st.builds(json.dumps, values, ensure_ascii=st.booleans(), indent=st.none() | st.just(1))


def outcome(read: Any, text: str) -> str:
    """Return the `repr` of the decoded value, or the name of the error."""
    try:
        return repr(read(text))
    except (ValueError, RecursionError) as error:
        return type(error).__name__


@given(text=texts | numbers | integers | st.lists(st.sampled_from(TOKENS), max_size=12).map("".join) | st.text())
@example(text="18446744073709551616")  # other libraries return a float
@example(text="-0")
@example(text="1e400")
@example(text='{"a": 1, "a": 2}')
@example(text='"\\ud800"')
@example(text="9" * 5_000)
@example(text="[" * 5_000 + "]" * 5_000)
def test_json_is_read_as_python_reads_it(text: str) -> None:
    assert outcome(from_json, text) == outcome(json.loads, text)


class Code(enum.IntEnum):
    """An int that JSON text would not bring back as it was."""

    ONE = 1


class Word(str):
    """A str that JSON text would not bring back as it was."""

    __slots__ = ()


refused = st.sampled_from([Code.ONE, Word("a"), b"a", (1,), {1}, "\ud800", 10**5_000])
atoms = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
keys = st.text() | st.sampled_from([1, None, True, Word("a"), "\ud800"])


@example(value={1: "int key"})
@example(value=[Code.ONE])
@example(value={"nan": float("nan"), "none": None})
@given(value=values | refused | st.lists(atoms | refused) | st.dictionaries(keys, atoms | refused))
def test_flat_json_is_what_the_careful_encoder_writes(value: Any) -> None:
    try:
        expected = to_json(value)
    except EncodeError:
        expected = None
    assert to_flat_json(value) in (None, expected)


def test_most_values_are_encoded_the_quick_way() -> None:
    for value in ({"code": "sh600000", "price": 1.5, "n": 3, "open": True}, [1, 2.5, "x"], "text", 7, -0.0):
        assert to_flat_json(value) == to_json(value)
