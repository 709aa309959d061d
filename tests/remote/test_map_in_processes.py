"""`map_in_processes`: order, failures, dying processes, refusals, and a clean end."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from prefect.utilities.importtools import load_script_as_module
from streamz import Stream

from deployments.servers.redis_server import RedisServer
from tasks import PipelineError, Reservoir, SettingsError
from tasks.testing import Bench, drain
from tests.support.remote_calls import Unloadable, do, finish_odd_first, hold, lock_of_two, own_pid, raise_odd
from tests.support.streams import dead, expect_bound, here, pending, push_all
from tests.support.waiting import wait_until

Fresh = Callable[[], redis.Redis]

ROOT = Path(__file__).resolve().parents[2]

words = st.lists(st.sampled_from(["return", "return", "raise", "exit", "once", "die"]), max_size=8)


@given(words=words, workers=st.integers(1, 3), crash_after=st.none() | st.integers(0, 8))
def test_results_and_dead_letters_are_those_of_the_model(
    fresh_client: Fresh, words: list[str], workers: int, crash_after: int | None
) -> None:
    """The model: every element that neither raises nor kills each of its processes comes out, once a life, in order."""
    whats = [f"{word} {n}" for n, word in enumerate(words)]
    with tempfile.TemporaryDirectory() as folder:
        run = drain(
            lambda s: s.pluck("what").map_in_processes(do, folder, workers=workers, retries=1),
            [{"what": what} for what in whats],
            client=fresh_client(),
            crash_after=crash_after,
        )
    good = [what for what in whats if what.startswith(("return", "once"))]
    assert list(dict.fromkeys(run.results)) == good
    assert len(run.results) == len(good) or crash_after is not None
    assert [letter.entry["what"] for letter in run.dead] == [what for what in whats if what not in good]
    for entry, node, exception in run.dead:
        assert node == "map_in_processes(do)"
        what = entry["what"]
        expected = {"raise": f"ValueError({what!r})", "exit": f"SystemExit({what!r})"}.get(what.partition(" ")[0])
        assert exception == (expected or exception)
        assert expected or "its worker process died in 2 of 2 calls, the last time with exit code -9" in exception
    assert run.pending == []
    assert [entry["what"] for entry in run.acked] == good


def test_results_keep_their_order_if_later_calls_end_first(client: redis.Redis, tmp_path: Path) -> None:
    run = drain(
        lambda s: s.pluck("n").map_in_processes(finish_odd_first, str(tmp_path), workers=2),
        [{"n": n} for n in range(10)],
        client=client,
    )
    assert run.results == list(range(10))


def test_killed_processes_cost_no_result_and_double_none(
    redis_server: RedisServer, real_redis: redis.Redis, tmp_path: Path
) -> None:
    """Processes are killed while a source runs; every entry has one result, in order."""
    source = Stream.from_redis("topic", group="group", url=redis_server.url)
    node = source.pluck("n").map_in_processes(hold, str(tmp_path), workers=2, retries=5)
    kept = node.to_redis("results", keep=None)
    push_all(real_redis, "topic", range(300))
    source.start()
    for results in range(30, 300, 60):
        wait_until(lambda results=results: real_redis.xlen("results") >= results, f"{results} results")
        for pid in node._pool.pids:
            with contextlib.suppress(ProcessLookupError):  # it has ended with the other one
                os.kill(pid, signal.SIGKILL)
    wait_until(lambda: real_redis.xlen("results") >= 300, "all results")
    wait_until(lambda: not pending(real_redis), "all acknowledgements")
    source.stop()
    source.join(20)
    del kept
    assert [entry["results"] for entry in Reservoir(real_redis).peek("results", 1000)] == list(range(300))
    assert not real_redis.exists("topic:dead:group")


def test_calls_in_progress_are_bounded_and_run_in_all_processes(client: redis.Redis, tmp_path: Path) -> None:
    ids = push_all(client, "topic", range(50))
    gate, seen = tmp_path / "gate", list[int]()

    async def main() -> None:
        source = here(client)
        node = source.pluck("n").map_in_processes(hold, str(gate), workers=2)
        node.sink(seen.append)
        # Two calls for each process, and one element that waits for room.
        await expect_bound(
            source, client, ids, received=lambda: node.meter.received, bound=5, let_through=gate.touch, deadline=20
        )

    asyncio.run(main())
    assert seen == list(range(50))


def test_every_process_of_the_pool_is_used() -> None:
    run = drain(lambda s: s.map_in_processes(own_pid, workers=3), [{"n": n} for n in range(60)])
    assert len(set(run.results)) == 3
    assert os.getpid() not in run.results


def test_stop_waits_for_calls_in_progress(redis_server: RedisServer, real_redis: redis.Redis, tmp_path: Path) -> None:
    gate, seen = tmp_path / "gate", list[int]()
    push_all(real_redis, "topic", range(3))
    source = Stream.from_redis("topic", group="group", url=redis_server.url)
    node = source.pluck("n").map_in_processes(hold, str(gate), workers=3)
    node.sink(seen.append)
    source.start()
    wait_until(lambda: node.meter.received == 3, "three calls")
    source.stop()
    opening = threading.Timer(1.0, gate.touch)  # longer than a stop waits for idle entries
    opening.start()
    source.join(20)
    opening.join()
    assert seen == [0, 1, 2]
    assert pending(real_redis) == []


def test_calls_that_outlast_the_grace_stay_pending_and_end(
    redis_server: RedisServer, real_redis: redis.Redis, tmp_path: Path
) -> None:
    ids = push_all(real_redis, "topic", range(3))
    source = Stream.from_redis("topic", group="group", url=redis_server.url, grace=0.1)
    node = source.pluck("n").map_in_processes(hold, str(tmp_path / "never"), workers=2)
    node.sink(lambda _: None)
    source.start()
    wait_until(lambda: node.meter.received == 3, "three calls")
    processes = [psutil.Process(pid) for pid in node._pool.pids]
    source.stop()
    source.join(20)
    assert len(processes) == 2
    assert not any(process.is_running() for process in processes)
    assert pending(real_redis) == ids
    assert dead(real_redis) == []


def test_stopped_source_starts_its_processes_again(redis_server: RedisServer, real_redis: redis.Redis) -> None:
    source = Stream.from_redis("topic", group="group", url=redis_server.url)
    pids = source.map_in_processes(own_pid, workers=1).sink_to_list()
    for round_ in (1, 2):
        push_all(real_redis, "topic", [round_])
        source.start()
        wait_until(lambda round_=round_: len(pids) == round_, "a result")
        source.stop()
        source.join(20)
    assert len(set(pids)) == 2


def test_processes_end_with_a_killed_run(tmp_path: Path) -> None:
    program = f"""
import tasks, time
from streamz import Stream
from tests.support.remote_calls import hold
node = Stream(asynchronous=False).map_in_processes(hold, {str(tmp_path / "never")!r}, workers=2)
node.before_start()
node._pool._executor.submit(node._pool._call, __import__("pickle").dumps(1))
print(*node._pool.pids, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT) as run:
        assert run.stdout
        processes = [psutil.Process(int(pid)) for pid in run.stdout.readline().split()]
        run.kill()
    assert len(processes) == 2
    wait_until(lambda: not any(process.is_running() for process in processes), "both processes to end")


def test_function_that_cannot_be_pickled_is_refused_with_the_remedy() -> None:
    lock = threading.Lock()
    with pytest.raises(PipelineError, match="'map_in_processes.*<lambda>.*can be pickled.*within the function"):
        Bench(lambda s: s.map_in_processes(lambda _: lock, workers=1)).step()


async def later(n: int) -> int:
    return n


def several(n: int) -> Any:
    yield n


@pytest.mark.parametrize("function", [later, several])
def test_function_whose_work_would_not_be_done_is_refused(function: Any) -> None:
    with pytest.raises(PipelineError, match=f"{function.__name__!r}.*use map_async for an async function"):
        Bench(lambda s: s.map_in_processes(function, workers=1)).step()


def test_function_that_no_process_can_import_is_refused_at_the_start() -> None:
    bench = Bench(lambda s: s.map_in_processes(Unloadable(), workers=2))
    with pytest.raises(PipelineError, match="another process can import, got ZeroDivisionError"):
        bench.step()


@pytest.mark.parametrize("options", [{"workers": 0}, {"workers": 1, "retries": -1}])
def test_senseless_numbers_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match="expected a whole number"):
        Stream().map_in_processes(own_pid, **options)


def test_element_or_result_that_cannot_be_pickled_fails_its_entry_only() -> None:
    run = drain(
        lambda s: (
            s.pluck("n").map(lambda n: threading.Lock() if n == 1 else n).map_in_processes(lock_of_two, workers=1)
        ),
        [{"n": n} for n in range(4)],
    )
    assert run.results == [0, 3]
    assert [letter.entry["n"] for letter in run.dead] == [1, 2]
    assert all("cannot pickle" in letter.exception for letter in run.dead)


def test_letter_of_an_exception_that_pickle_cannot_carry_has_its_text() -> None:
    # Not the entry: with it, a process imports Dask if that is installed, which makes exceptions easier to pickle.
    run = drain(lambda s: s.pluck("n").map_in_processes(raise_odd, workers=1), [{"n": 1}])
    [letter] = run.dead
    assert letter.exception == "RemoteError(\"OddError('12')\")"


def test_letter_has_the_traceback_of_the_other_process(client: redis.Redis) -> None:
    drain(lambda s: s.map_in_processes(raise_odd, workers=1), [{"n": 1}], client=client)
    [(_, letter)] = client.xrange("topic:dead:group")
    assert b"raise OddError(1, 2)" in letter[b"dead:traceback"]


FLOW = """
import dataclasses, os
import neighbour_of_{name}
@dataclasses.dataclass
class Found:
    n: int
FACTOR = 3
def times(x): return x * FACTOR
def score(n):
    if n == 2:
        raise Bad(n)
    return Found(neighbour_of_{name}.doubled(times(n)))
class Bad(Exception): pass
"""


@pytest.mark.parametrize("name", ["flow_by_path", "json"])
def test_functions_of_a_flow_file_that_prefect_loads_by_path_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """`json` has the name of another module, so that Prefect gives the file a name under which nothing can import it."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / f"{name}.py").write_text(FLOW.format(name=name))
    (tmp_path / f"neighbour_of_{name}.py").write_text("def doubled(n):\n    return 2 * n\n")
    module = load_script_as_module(str(tmp_path / f"{name}.py"))
    try:
        run = drain(lambda s: s.pluck("n").map_in_processes(module.score, workers=1), [{"n": n} for n in range(3)])
    finally:
        del sys.modules[module.__name__], sys.modules[f"neighbour_of_{name}"]
    assert run.results == [module.Found(0), module.Found(6)]
    assert [letter.exception for letter in run.dead] == ["Bad(2)"]


def test_node_works_in_a_graph_without_redis(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> list[str]:
        start = Stream(asynchronous=True)
        node = start.map_in_processes(do, "", workers=2)
        seen = node.sink_to_list()
        for what in ["return 0", "raise 1", "return 2"]:
            await start.emit(what)
        async with asyncio.timeout(20):
            while len(seen) < 2:  # noqa: ASYNC110 - polled
                await asyncio.sleep(0.001)
        node.after_end()
        return seen

    assert asyncio.run(main()) == ["return 0", "return 2"]
    assert "raised ValueError: raise 1" in caplog.text
