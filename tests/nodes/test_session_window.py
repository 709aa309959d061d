"""`session_window`: equal to a plain model, and in a replay equal to the live run, also after crashes and stops."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from streamz import Stream

from tasks import SettingsError
from tasks.nodes import session_window as sessions  # noqa: F401 - registers itself with streamz
from tests.support.windows import START, Came, Options, came, lived, lives, options, watermarks

Fresh = Callable[[], redis.Redis]


def collected(source: Stream, given: Options) -> Any:
    kept: Any = source.session_window(f"{given.size}ms", **without_size(given))
    return kept.map(
        lambda session: {
            "key": session.key, "start": session.start, "end": session.end,
            "values": [one["value"] for one in session.elements],
        }
    )  # fmt: skip


def aggregated(source: Stream, given: Options) -> Any:
    kept: Any = source.session_window(f"{given.size}ms", **without_size(given))
    kinds = ("first", "last", "max", "min", "sum", "mean", "count")
    return kept.agg(**{kind: ("value", kind) for kind in kinds})


def without_size(given: Options) -> dict[str, Any]:
    named = given.as_given()
    return {name: named[name] for name in ("lateness", "close_after", "late")} | {"key": "key"}


def model(elements: list[Came], given: Options) -> tuple[list[list[Came]], list[Came]]:
    """Return the sessions and the late elements: open sessions are found anew for each element by sorting all of theirs."""
    closed: list[list[Came]] = []
    open_: list[Came] = []
    late = []
    for element, watermark in watermarks(elements, given, given.lateness):
        for session in split(open_, given.size):
            if session[-1].time + given.size <= watermark:
                closed.append(session)
                open_ = [one for one in open_ if not any(one is member for member in session)]
        [own] = [one for one in split([*open_, element], given.size) if any(element is member for member in one)]
        if own[-1].time + given.size <= watermark:
            late.append(element)
        else:
            open_.append(element)
    return closed + split(open_, given.size), late


def split(elements: list[Came], gap: int) -> list[list[Came]]:
    """Return the sessions of elements, each by time."""
    found: list[list[Came]] = []
    for key in sorted({one.key for one in elements}):
        for one in sorted((one for one in elements if one.key == key), key=lambda one: one.time):
            if found and found[-1][-1].key == key and one.time - found[-1][-1].time < gap:
                found[-1].append(one)
            else:
                found.append([one])
    return found


def shown(row: Any) -> str:
    bounds = {name: round(row[name].timestamp() * 1000) - START for name in ("start", "end")}
    return repr(dict(row) | bounds)


@given(data=st.data(), given_=options, elements=came(st.integers(-5, 5)), late=st.sampled_from(["drop", "dead_letter"]))
def test_sessions_equal_those_of_a_model_in_any_life_and_in_a_replay(
    fresh_client: Fresh, data: st.DataObject, given_: Options, elements: list[Came], late: str
) -> None:
    options_ = replace(given_, late=late, close_after=given_.close_after or 25)
    expected, expected_late = model(elements, options_)
    for build, wanted in ((collected, values), (aggregated, numbers)):
        live = lived(build, elements, fresh_client(), data.draw(lives(len(elements))), given=options_)
        found, dead = [shown(row) for row in live.entries("results")], [letter.entry for letter in live.dead]
        replay = lived(build, elements, fresh_client(), given=options_)
        assert (found, dead) == ([shown(row) for row in replay.entries("results")], [one.entry for one in replay.dead])
        assert len(dead) == (len(expected_late) if late == "dead_letter" else 0)
        assert sorted(found) == sorted(repr(row_of(session, options_) | wanted(session)) for session in expected)


def row_of(session: list[Came], given: Options) -> dict[str, Any]:
    return {"key": session[0].key, "start": session[0].time, "end": session[-1].time + given.size}


def values(session: list[Came]) -> dict[str, Any]:
    return {"values": [one.value for one in session]}


def numbers(session: list[Came]) -> dict[str, Any]:
    found: Any = [one.value for one in session]
    named = {"first": found[0], "last": found[-1], "max": max(found), "min": min(found), "sum": sum(found)}
    return named | {"mean": sum(found) / len(found), "count": len(found)}


@pytest.mark.parametrize("named", [{"late": "update"}, {"gap": "x"}])
def test_option_of_a_session_that_cannot_be_used_is_refused(named: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(named))):
        Stream().session_window(**({"gap": "1s"} | named))  # type: ignore[attr-defined]
