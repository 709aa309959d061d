"""Options of a decorator are one frozen value, checked when written, and again only if a run overrides one."""

from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from streamz import Stream

from flows import inlet, inlets, outlet, outlets
from flows.runtime.decorators import overridden
from flows.runtime.inlet_options import InletOptions
from flows.runtime.outlet_options import OutletOptions
from tasks import SettingsError

INLET = InletOptions(topic="t", every="500ms", timeout="2s", threads=2, keep="1h", when_full="wait")
OUTLET = OutletOptions(topics="t", group="g", lease="3s")


@pytest.mark.parametrize(("options", "name"), [(INLET, "topic"), (OUTLET, "group")])
def test_options_are_frozen_and_have_no_other_attributes(options: Any, name: str) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(options, name, "other")
    assert not hasattr(options, "__dict__")


def test_options_hold_parsed_values_of_their_text() -> None:
    assert (INLET.every_seconds, INLET.timeout_seconds, INLET.window_seconds) == (0.5, 2.0, 1500.0)
    assert (INLET.kept.age_ms, INLET.kept.when_full) == (3_600_000, "wait")
    assert InletOptions(topic="t", every="").every_seconds is None
    assert (OUTLET.topic_names, OUTLET.lease_seconds, OUTLET.run_for_seconds) == (["t"], 3.0, None)


def test_only_an_overridden_option_is_checked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    checks: list[OutletOptions] = []
    check = OutletOptions.__post_init__

    def counting(options: OutletOptions) -> None:
        check(options)
        checks.append(options)

    monkeypatch.setattr(OutletOptions, "__post_init__", counting)
    options = OutletOptions(topics="t", group="g")
    assert overridden(options, {"lease": "10s", "topics": "t"}) is options
    assert len(checks) == 1
    assert overridden(options, {"lease": "3s"}).lease_seconds == 3.0
    assert len(checks) == 2
    with pytest.raises(SettingsError, match="lease: expected a duration"):
        overridden(options, {"lease": "soon"})


def test_a_run_uses_its_decorators_options_unless_it_overrides_them(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Any] = []
    monkeypatch.setattr(inlets, "_run", lambda pump, filled, own, options: runs.append((own, options)))
    monkeypatch.setattr(outlets, "_run", lambda build, name, options, stop, log: runs.append((build.keywords, options)))

    @inlet(topic="t", every="5s")
    def pump(board: str = "all") -> None: ...

    @outlet(topics=["a", "b"], group="g")
    def build(source: Stream, top: int = 3) -> None: ...

    pump.fn(board="sh")
    pump.fn(every="1s")
    build.fn(top=4, lease="3s")
    assert runs[0] == ({"board": "sh"}, InletOptions(topic="t", every="5s"))
    assert runs[1] == ({"board": "all"}, InletOptions(topic="t", every="1s"))
    assert runs[2] == ({"top": 4}, OutletOptions(topics=["a", "b"], group="g", lease="3s"))
