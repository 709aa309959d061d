"""Parameters of the run that `sluice restart` starts."""

from types import SimpleNamespace
from typing import Any

import pytest

from deployments.commands.restart import _parameters
from tasks import SettingsError

DEPLOYMENT: Any = SimpleNamespace(parameter_openapi_schema={"properties": {"over": {}, "topics": {}, "into": {}}})


def test_a_value_is_read_as_json_and_as_text_where_it_is_none() -> None:
    given = ["over=7", 'topics=["a", "b"]', "into=signals=1"]
    assert _parameters(given, DEPLOYMENT, "movers/main") == {"over": 7, "topics": ["a", "b"], "into": "signals=1"}


@pytest.mark.parametrize("given", ["over", "=7", "ovre=7", ""])
def test_unknown_parameters_are_refused_with_the_known_ones(given: str) -> None:
    with pytest.raises(SettingsError, match="the name one of into, over, topics, got .*; nothing was stopped"):
        _parameters([given], DEPLOYMENT, "movers/main")
