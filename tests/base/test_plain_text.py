"""Escapes for text of unknown origin in logs, reports and diagrams."""

import re
import sys
import unicodedata
from typing import Any

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tasks.base.plain_text import below, in_markdown, in_mermaid, one_line, traceback_below
from tasks.report import pipeline as report

MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])
SPECIAL = st.text(st.sampled_from("a |\\`*_[]()<>!&#~$:/.@\n\t\x1b;1-") | st.characters())


def cells(markdown: str) -> list[list[Any]]:
    """Return the tokens that a CommonMark parser finds in each cell of the only table, row by row."""
    rows: list[list[Any]] = []
    for token in MARKDOWN.parse(markdown):
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline":
            rows[-1].append(token.children)
    return rows


def has_no_controls(line: str) -> bool:
    return not any(unicodedata.category(one) in ("Cc", "Cf", "Cs", "Zl", "Zp") for one in line)


@given(SPECIAL, st.integers(1, 40))
def test_one_line_is_bounded_and_has_no_control_characters(text: str, most: int) -> None:
    shown = one_line(text, most)
    assert has_no_controls(shown)
    assert len(shown.splitlines()) <= 1
    assert len(shown) <= most + len(f"... ({len(text):,} characters)")


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), max_size=100))
def test_one_line_keeps_letters_and_signs_of_every_script(text: str) -> None:
    assert one_line(text) == text


@given(st.lists(SPECIAL, min_size=1, max_size=4))
@example(["![x](http://127.0.0.1:1/x.png)", "[x](http://127.0.0.1:1/)", "<b>x</b>", "**x** `x` ~~x~~ &lt;"])
@example(["a|b", r"a\|b", r"a\\|b", "`|`"])
@example(["www.x.org | `` \\", "x@y.org|\\\\|", "`x@y`", "\\"])
def test_markdown_shows_text_verbatim_in_one_cell(texts: list[str]) -> None:
    header, row = cells(report.table(map(in_markdown, texts), [map(in_markdown, texts)]))
    for found in (header, row):
        assert len(found) == len(texts)
        for children, text in zip(found, texts, strict=True):
            assert {child.type for child in children} <= {"text", "code_inline"}
            shown, meant = "".join(child.content for child in children), one_line(text)
            if {child.type for child in children} == {
                "code_inline"
            }:  # shows one more backslash before a '|', see `_as_code`
                shown, meant = (re.sub(r"\\+\|", "|", one) for one in (shown, meant))
            assert " ".join(shown.split()) == " ".join(meant.split())


@given(SPECIAL)
def test_markdown_shows_possible_links_as_code(text: str) -> None:
    for linked in (f"{text}https://127.0.0.1", f"www.x{text}", f"{text}@{text}"):
        ((children,), *_) = cells(report.table([in_markdown(linked)], [[""]]))
        assert [child.type for child in children] == ["code_inline"]


@given(SPECIAL)
def test_mermaid_label_has_no_syntax_and_shows_the_text(text: str) -> None:
    label = in_mermaid(text)
    assert not set(re.sub(r"#\d+;", "", label)) & set("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~\n")
    assert re.sub(r"#(\d+);", lambda found: chr(int(found[1])), label) == one_line(text)


@given(SPECIAL, st.integers(1, 200))
def test_below_indents_all_lines_after_the_first_and_is_bounded(text: str, most: int) -> None:
    first, *others = below(text, most).split("\n")
    assert has_no_controls(first)
    assert all(line.startswith("    ") and has_no_controls(line) for line in others)
    assert len(below(text, most)) <= 20 * most + 100


def test_below_keeps_the_columns_of_a_table_aligned() -> None:
    first, *rows = below(str(pd.DataFrame({"a": [10], "b": [20]}))).split("\n")
    assert first == ""
    assert [row.split() for row in rows] == [["a", "b"], ["0", "10", "20"]]
    assert len({len(row) for row in rows}) == 1


class MuteError(Exception):
    def __str__(self) -> str:
        msg = "no text"
        raise RuntimeError(msg)


@pytest.mark.parametrize(
    "error", [ValueError("a\n12:00:00.000 | INFO\r\x1b[2J" + "y" * 50_000), ValueError("\n" * 50_000), MuteError()]
)
def test_traceback_is_indented_bounded_and_has_no_control_characters(error: Exception) -> None:
    try:
        raise error
    except type(error):
        shown = traceback_below(error)
    assert all(line.startswith("    ") and has_no_controls(line) for line in shown.split("\n"))
    assert len(shown) < 12_000
    assert type(error).__name__ in shown
    assert sys._getframe().f_code.co_name in shown
