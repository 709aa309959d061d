"""A test kit for pipelines and pumps: the real consumer, receipts, repairs and acknowledgements, without a server.

    @given(entries(seconds=st.integers(), quotes=frames({"code": "str", "now": "float64"})))
    def test_each_second_comes_out_once_and_in_order(pushed):
        run = drain(pipeline, pushed)
        assert run.results == [entry["seconds"] for entry in pushed if "seconds" in entry]
        assert run.acked == pushed

Redis is fakeredis, in this process. Time is a virtual clock of the pipeline's loop: waiting - `rate_limit`, `delay`,
`timed_window`, an `asyncio.sleep` - takes no time, while other clocks such as `time.time()` stay real. The kit cannot
simulate blocking reads, lost connections or a killed server.

The kit also works in a notebook and in an async test, whose loop stands still during a call.
"""

from tasks.testing.bench import Bench, Dead, Pushed, drain, entries, fake_redis, frames, pumped, values

__all__ = ["Bench", "Dead", "Pushed", "drain", "entries", "fake_redis", "frames", "pumped", "values"]
