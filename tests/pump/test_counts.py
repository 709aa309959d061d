"""The counts of an inlet outlast its runs: each run's are added once, however often they are sent and whichever run dies."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import redis
from hypothesis import given
from hypothesis import strategies as st

from tasks import Reservoir
from tasks.pump.counts import beats, counts_of
from tasks.pump.ticks import Beat

Fresh = Callable[[], redis.Redis]
DAY_US = 86_400_000_000

# Which of three runs counts what since it counted last, and how often that is sent.
counted = st.tuples(
    st.integers(0, 2), st.dictionaries(st.sampled_from(["pushed", "missed"]), st.integers(0, 5)), st.integers(1, 3)
)


@given(st.lists(counted, max_size=20))
def test_counts_of_runs_side_by_side_add_up_though_they_are_sent_again(
    fresh_client: Fresh, steps: list[tuple[int, dict[str, int], int]]
) -> None:
    client = fresh_client()
    runs = [Beat(Reservoir(client), "topic", "inlet", every=1.0) for _ in range(3)]
    totals: list[Counter[str]] = [Counter() for _ in runs]
    for beat in runs:
        beat.start(100.0)
    for which, more, times in steps:
        totals[which].update(more)
        for _ in range(times):
            runs[which].count(totals[which])
    expected = sum(totals, Counter[str]())
    found = counts_of(client, beats(client))
    assert +Counter(found[0].totals if found else {}) == expected
    assert all((each.inlet, each.topic) == ("inlet", "topic") for each in found)


def test_records_of_old_runs_are_forgotten_and_their_counts_stay(client: redis.Redis) -> None:
    known: Any = client
    beat = Beat(Reservoir(client), "topic", "inlet", every=1.0)
    for day in range(6):
        beat.count({"pushed": 2}, run=day * DAY_US)
    [found] = counts_of(client, beats(client))
    assert found.totals == {"pushed": 12}
    remembered = [name for name in known.hkeys(beat.key) if name.startswith(b"counted:")]
    assert len(remembered) == 4, "of the last three days"


def test_odd_fields_of_a_beat_hide_no_other_inlet(client: redis.Redis) -> None:
    for name in ("odd", "sound"):
        Beat(Reservoir(client), "topic", name, every=1.0).count({"pushed": 1}, run=1)
    [odd, _] = beats(client)
    client.hset(odd, "count:pushed", "many")
    assert [each.inlet for each in counts_of(client, beats(client))] == ["sound"]
