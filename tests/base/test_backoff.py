"""Back-off: pauses double up to a bound, and restart after a success."""

from hypothesis import given
from hypothesis import strategies as st

from tasks.base.backoff import Backoff, doubled


@given(first=st.floats(0.01, 10), longest=st.floats(0.01, 100), successes=st.lists(st.booleans(), max_size=100))
def test_pauses_double_up_to_the_longest_and_restart_after_a_success(
    first: float, longest: float, successes: list[bool]
) -> None:
    backoff, expected = Backoff(first=first, longest=longest), first
    for is_success in successes:
        if is_success:
            backoff.reset()
            expected = first
        else:
            assert backoff.next() == min(longest, expected)
            expected *= 2


def test_thousands_of_doublings_do_not_overflow() -> None:
    assert doubled(0.1, 5_000, longest=30.0) == 30.0
