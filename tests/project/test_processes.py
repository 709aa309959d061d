"""What the processes of the tests share."""

import pytest

from tests.conftest import ON_PREFECT


def test_all_that_use_the_prefect_server_are_run_in_one_process(request: pytest.FixtureRequest) -> None:
    using = {
        item.nodeid.partition("::")[0]
        for item in request.session.items
        if "prefect_server" in getattr(item, "fixturenames", ())
    }
    assert using <= ON_PREFECT, "or a second server starts: add them in tests/conftest.py"
