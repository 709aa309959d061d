"""The distribution of tests among processes."""

import pytest

from tests.conftest import uses_prefect_server


def test_files_that_use_the_prefect_server_are_recognized(request: pytest.FixtureRequest) -> None:
    using = {
        item.nodeid.partition("::")[0]
        for item in request.session.items
        if "prefect_server" in getattr(item, "fixturenames", ())
    }
    assert all(uses_prefect_server(file) for file in using), "or another process starts a second server"
