"""Pickles for other processes: by value only for those readers that cannot import a module."""

import threading

import cloudpickle
import pytest

from tasks.remote.pickles import dumps
from tests.support.remote_calls import OddError, raise_odd


@pytest.mark.parametrize("value", [raise_odd, OddError])
def test_pickle_for_another_machine_changes_no_later_one_for_this_machine(value: object) -> None:
    here = dumps(value)
    assert len(dumps(value, "elsewhere")) > len(here), "by value"
    assert dumps(value) == here
    assert cloudpickle.list_registry_pickle_by_value() == set()


def test_failed_pickle_for_another_machine_changes_no_later_one() -> None:
    here = dumps(raise_odd)
    with pytest.raises(TypeError, match="lock"):
        dumps((raise_odd, threading.Lock()), "elsewhere")
    assert dumps(raise_odd) == here


def test_module_that_the_user_registered_stays_registered() -> None:
    from tests.support import remote_calls

    cloudpickle.register_pickle_by_value(remote_calls)
    try:
        dumps(raise_odd, "elsewhere")
        assert cloudpickle.list_registry_pickle_by_value() == {remote_calls.__name__}
    finally:
        cloudpickle.unregister_pickle_by_value(remote_calls)
