"""Lua scripts: keys and arguments have names."""

import re
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from tasks.reservoir.lua import Names, Script, load

TASKS = Path(__file__).resolve().parents[2] / "tasks"
FILES = sorted(TASKS.rglob("scripts/*.lua"))
SCRIPTS = [file for file in FILES if "-- keys:" in file.read_text()]

ECHO = Script(
    "echo",
    Names.of("first more... rest..."),
    Names.of("one two some... others..."),
    """
local function slice(values, from, to)
  local found = {}
  for i = from, to do found[#found + 1] = values[i] end
  return found
end
return {first, slice(KEYS, more_from, more_to), slice(KEYS, rest_from, rest_to), one, two,
  slice(ARGV, some_from, some_to), slice(ARGV, others_from, others_to)}
""",
)
texts = st.lists(st.text(st.characters(codec="utf-8"), max_size=3), max_size=5)


@given(more=texts, rest=texts, some=texts, others=texts)
def test_lists_of_any_length_arrive_under_their_names(
    fresh_client: Any, more: list[str], rest: list[str], some: list[str], others: list[str]
) -> None:
    echo = ECHO.on(fresh_client())
    answer = echo(others=others, some=some, two=2, one=1, rest=rest, more=more, first="key")
    encoded = [[text.encode() for text in texts] for texts in (more, rest, some, others)]
    assert answer == [b"key", *encoded[:2], b"1", b"2", *encoded[2:]]


def test_missing_optional_key_is_nil_in_the_script(client: redis.Redis) -> None:
    script = Script(
        "optional", Names.of("first [second]"), Names.of("one"), "return {first, one, second or 'none'}"
    ).on(client)
    assert script(first="a", second=None, one=1) == [b"a", b"1", b"none"]
    assert script(first="a", second="b", one=1) == [b"a", b"1", b"b"]


@pytest.mark.parametrize("given", [{"first": 1}, {"first": 1, "one": 1, "two": 1}, {"first": 1, "second": 1}])
def test_call_with_missing_or_unknown_names_is_refused(fake_redis: redis.Redis, given: dict[str, Any]) -> None:
    script = Script("two", Names.of("first"), Names.of("one"), "return 1").on(fake_redis)
    with pytest.raises(TypeError, match=r"two\(\) (missing 1 required|got an unexpected) keyword"):
        script(**given)


@pytest.mark.parametrize("line", ["a... b", "[a] b", "a, b", "1a", "a... [b]"])
def test_invalid_signature_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="expected names, then lists"):
        Names.of(line)


def test_scripts_are_found() -> None:
    assert len(SCRIPTS) > 20


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.stem)
def test_script_uses_all_its_names_and_no_index(file: Path) -> None:
    script = load(str(file.parents[1] / "module.py"), file.stem)
    code = re.sub(r"--.*", "", script.body)
    assert not re.search(r"(KEYS|ARGV)\[\d", code)
    bounds = [f"{name}_from" for name in (*script.keys.lists, *script.args.lists)]
    unused = [
        name for name in (*script.keys.single, *script.args.single, *bounds) if not re.search(rf"\b{name}\b", code)
    ]
    assert unused == []


def test_every_script_is_loaded_and_every_part_is_included() -> None:
    python = "".join(file.read_text() for file in TASKS.rglob("*.py"))
    lua = "".join(file.read_text() for file in FILES)
    unused = [
        file.name
        for file in FILES
        if not re.search(rf'load\(__file__, "{file.stem}"\)', python)
        and not re.search(rf"^ *-- include: {file.stem}$", lua, re.MULTILINE)
    ]
    assert unused == []
