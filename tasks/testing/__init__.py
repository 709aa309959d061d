"""A test kit for pipelines and pumps: the real consumer, receipts, repairs and acknowledgements, without a server.

    @given(entries(seconds=st.integers(), quotes=frames({"code": "str", "now": "float64"})))
    def test_each_second_comes_out_once_and_in_order(pushed):
        run = drain(pipeline, pushed)
        assert run.results == [entry["seconds"] for entry in pushed if "seconds" in entry]
        assert run.acked == pushed

Redis is fakeredis, in this process, and time is a clock of the pipeline's own loop: what waits - `rate_limit`, `delay`,
`timed_window`, an `asyncio.sleep` - takes no time. What asks another clock, `time.time()` say, gets the real one. What
fakeredis cannot show (blocking reads, lost connections, a server that is killed) is not shown here either.

All of it works in a notebook and in an async test, too, whose loop stands still during a call.
"""

from tasks.testing.bench import Bench, Dead, Pushed, drain, entries, fake_redis, frames, pumped, values

__all__ = ["Bench", "Dead", "Pushed", "drain", "entries", "fake_redis", "frames", "pumped", "values"]
