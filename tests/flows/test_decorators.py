"""The flows that `@inlet` and `@outlet` make, and the mistakes that they refuse at import."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import redis
from prefect import Flow
from prefect.flows import load_flow_from_entrypoint
from streamz import Stream

from deployments.servers.redis_server import RedisServer
from flows import inlet, outlet
from tasks import SettingsError
from tasks.reservoir.keep import DEFAULT_KEEP

SOURCE = '''
"""A user's flow file."""
from __future__ import annotations
from typing import TYPE_CHECKING, Literal
from flows import inlet, outlet

if TYPE_CHECKING:
    import pandas as pd
    from streamz import Stream


@inlet(topic="prices", every="5s", threads=4)
def quotes(board: Literal["all", "sh"] = "all", top: int = 3) -> pd.DataFrame:
    """Every quote, one row per code.

    A second paragraph.

    Args:
        board: Which board to ask for.
    """
    return {"board": board, "top": top}


@outlet(topics=["prices", "other"], group="movers", into="signals")
def movers(source: Stream, top: int = 10) -> Stream:
    """The widest."""
    return source.pluck("quotes")
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "users_flows.py"
    path.write_text(SOURCE)
    return path


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_both_are_flows_that_prefect_loads_by_file_and_name(file: Path) -> None:
    for name in ("quotes", "movers"):
        made = load_flow_from_entrypoint(f"{file}:{name}")
        assert type(made) is Flow
        assert made.name == name


def test_the_form_shows_the_functions_own_parameters_and_then_the_decorators(file: Path) -> None:
    form = load(file).quotes.parameters
    assert list(form.properties) == [
        "board", "top", "topic", "every", "threads", "timeout", "window", "keep", "partitions", "key", "when_full",
        "compression", "max_failures", "when_failing", "max_waiting", "fresh_within", "only_if_changed", "limit", "limit_name", "catch_up",
    ]  # fmt: skip
    assert form.properties["board"]["enum"] == ["all", "sh"]
    assert form.properties["top"]["type"] == "integer"
    assert (form.properties["every"]["default"], form.properties["threads"]["default"]) == ("5s", 4)


def test_every_option_has_a_description_and_own_parameters_keep_theirs(file: Path) -> None:
    module = load(file)
    assert module.quotes.parameters.properties["board"]["description"] == "Which board to ask for."
    for made, own in ((module.quotes, {"board", "top"}), (module.movers, {"top"})):
        for name, shown in made.parameters.properties.items():
            assert shown.get("description") or name in own


def test_the_flow_is_described_by_the_docstring_without_its_arguments(file: Path) -> None:
    assert load(file).quotes.description == "Every quote, one row per code.\n\nA second paragraph."


def test_the_source_is_no_parameter_of_an_outlet(file: Path) -> None:
    assert "source" not in load(file).movers.parameters.properties


def test_the_undecorated_function_stays_callable(file: Path) -> None:
    module = load(file)
    assert module.quotes.pump(board="sh") == {"board": "sh", "top": 3}
    assert isinstance(module.movers.build(Stream()), Stream)


def test_an_edited_file_is_another_version_of_its_flows(file: Path) -> None:
    before = load(file).quotes.version
    assert load(file).quotes.version == before
    file.write_text(SOURCE + "\n# edited\n")
    assert load(file).quotes.version != before


@pytest.mark.parametrize("name", ["topic", "every", "return_state", "wait_for"])
def test_a_parameter_named_like_one_of_the_decorators_is_an_error_at_import(name: str) -> None:
    namespace: dict[str, Any] = {}
    exec(f"def pump({name}=1): ...", namespace)
    with pytest.raises(SettingsError, match=rf"inlet 'pump'.*'{name}'.*rename"):
        inlet(topic="t")(namespace["pump"])


def test_form_accepts_keep_as_a_number_or_as_text(file: Path) -> None:
    keep = load(file).quotes.parameters.properties["keep"]
    assert {kind["type"] for kind in keep["anyOf"]} == {"integer", "string"}
    assert keep["default"] == DEFAULT_KEEP
    for value in (4_000, "4000, 1h, 500MB"):
        assert load(file).quotes.validate_parameters({"keep": value})["keep"] == value


def test_inlets_of_one_topic_that_keep_differently_are_an_error_at_import() -> None:
    def one() -> None: ...
    def other() -> None: ...

    inlet(topic="shared", keep="4000, 1h")(one)
    inlet(topic="shared", keep="1h, 4000")(other)  # the same, in other words
    inlet(topic="shared", keep="60min, 4000")(one)  # reloaded
    for differently in ({"keep": 4_000}, {"keep": "1h, 4000", "when_full": "wait"}):
        with pytest.raises(SettingsError, match=r"topic 'shared'.*'4000, 1h' from inlet 'one'; make them agree"):
            inlet(topic="shared", **differently)(other)


def test_an_outlet_into_a_topic_of_an_inlet_that_keeps_otherwise_is_refused() -> None:
    def pump() -> None: ...
    def build(source: Stream) -> Stream:
        return source

    inlet(topic="pumped", keep="1h")(pump)
    outlet(topics="t", group="g", into="pumped", into_keep="60min")(build)
    with pytest.raises(
        SettingsError, match=r"got '10' from outlet 'build' and '1h' from inlet 'pump'; make them agree"
    ):
        outlet(topics="t", group="g", into="pumped", into_keep=10)(build)


def test_async_outlet_is_an_error_at_import() -> None:
    async def build(source: Stream) -> Stream:
        return source

    with pytest.raises(SettingsError, match=r"outlet 'build'.* write `def build`, without async"):
        outlet(topics="t", group="g")(build)


def test_an_outlet_that_returns_no_stream_is_refused_with_a_hint(
    redis_server: RedisServer, real_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_REDIS_URL", redis_server.url)

    @outlet(topics="t", group="g", into="results")
    def listed(source: Stream) -> list[Any]:
        return source.sink_to_list()

    with pytest.raises(
        SettingsError, match=r"outlet 'listed': expected the stream of its results or None, .* got a list"
    ):
        listed.fn()


def test_an_outlet_without_a_source_is_an_error_at_import() -> None:
    def build() -> None: ...

    with pytest.raises(SettingsError, match=r"def build\(source: Stream\)"):
        outlet(topics="t", group="g")(build)


@pytest.mark.parametrize(
    ("decorator", "written", "message"),
    [
        (
            "inlet",
            "@inlet",
            r"@inlet: written without options on 'f'; expected @inlet\(topic=.*, and optionally every,",
        ),
        ("outlet", "@outlet", r"on 'f'; expected @outlet\(topics=.*, group=.*\), and optionally into,"),
        ("inlet", "@inlet()", r"@inlet: missing a required .*'topic'; expected @inlet\(topic="),
        ("inlet", "@inlet('t')", r"@inlet: too many positional arguments; expected"),
        ("outlet", "@outlet(topics='t', group='g', topic='t')", r"unexpected keyword argument 'topic'; expected"),
    ],
)
def test_a_decorator_without_required_options_explains_at_import_how_to_write_it(
    decorator: str, written: str, message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        exec(f"{written}\ndef f(source): ...", {decorator: {"inlet": inlet, "outlet": outlet}[decorator]})


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"topic": " a"}, "topic name"),
        ({"every": "soon"}, "every: expected a duration"),
        ({"every": "0s"}, "every: expected a duration above zero"),
        ({"every": "2min"}, "use every=None and a schedule"),
        ({"every": "60s", "window": "30s"}, "window"),
        ({"keep": 0}, "keep: expected a number of entries, an age or a size above zero"),
        ({"keep": "4000, 1h, 2h"}, "keep: expected each limit once"),
        ({"max_waiting": "1h"}, "max_waiting: expected a number of entries or a size above zero"),
        ({"when_full": "drop"}, "when_full: expected 'spill' or 'wait'"),
        ({"every": 0}, "every: expected a duration above zero"),
        ({"threads": -1}, "threads: expected a whole number from 0 on, got -1"),
        ({"timeout": "1s"}, "timeout: .* set threads to 1 or more"),
        ({"when_failing": "stop"}, "when_failing: expected 'retry' or 'fail', got 'stop'"),
        ({"fresh_within": "soon"}, "fresh_within: expected a duration"),
        ({"max_failures": 0}, "max_failures: expected a whole number from 1 on"),
        ({"compression": "gzip"}, "compression: expected 'lz4' or 'zstd' or None, got 'gzip'"),
    ],
)
def test_a_bad_option_of_an_inlet_is_an_error_at_import(options: dict[str, Any], why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        inlet(**({"topic": "t"} | options))(lambda: None)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"topics": ["a", "b "]}, "topic name"),
        ({"topics": ["a", "a"]}, "or a list of different ones"),
        ({"group": "a:b"}, "group name"),
        ({"into": "t"}, "come back to it"),
        ({"into_keep": "1h, 2h"}, "into_keep: expected each limit once"),
        ({"into_when_full": "drop"}, "into_when_full: expected 'spill' or 'wait', got 'drop'"),
        ({"into_compression": "gzip"}, "into_compression: expected 'lz4' or 'zstd' or None, got 'gzip'"),
        ({"into_field": 3}, "into_field: expected the name of a field, .* got 3"),
        ({"run_for": "-1s"}, "run_for"),
        ({"start_from": "yesterday-ish"}, "start_from"),
        ({"topics": []}, "topics: expected the name of a topic, or a list of different ones"),
        ({"on_error": "ignore"}, "on_error: expected 'dead_letter' or 'stop', got 'ignore'"),
        ({"max_deliveries": 0}, "max_deliveries: expected a whole number from 1 on"),
        ({"lease": "0.5ms"}, "lease: expected a duration of 1 ms or more, got '0.5ms'"),
    ],
)
def test_a_bad_option_of_an_outlet_is_an_error_at_import(options: dict[str, Any], why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        outlet(**({"topics": "t", "group": "g"} | options))(lambda source: source)
