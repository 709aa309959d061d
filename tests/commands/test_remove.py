"""`sluice remove` deletes an inlet or an outlet from Prefect's server and Redis, and nothing else."""

import contextvars
import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events import DeploymentEventTrigger
from prefect.events.actions import RunDeployment
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.states import Cancelled, Completed, Running
from rich.console import Console
from streamz import Stream

from deployments.commands.remove import remove
from deployments.rollout.uses import Uses, unshared
from deployments.servers.redis_server import RedisServer
from flows import inlet, outlet
from flows.runtime.shared_poll import SharedPoll
from tasks import SettingsError, UnavailableError
from tasks.group.consumer import Consumer
from tests.group.test_removal import everything, pump
from tests.support.streams import push_all, run
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("prefect")


@inlet(topic="common", every="1s")
def pumped() -> int: ...


@inlet(topic="common", every="1s")
def beside() -> int: ...


@outlet(topics=["common", "other"], group="counts", into="counted")
def counts(source: Stream) -> Stream:
    return source.pluck("n").map(lambda n: {"n": 1 // n})


@pytest.fixture
def client(
    real_redis: redis.Redis,
    redis_server: RedisServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[SyncPrefectClient]:
    """Return a client of the Prefect server, while the commands use the test's Redis."""
    monkeypatch.setenv("SLUICE_REDIS_URL", redis_server.url)
    monkeypatch.setenv("SLUICE_STATE_DIR", str(tmp_path))
    with get_client(sync_client=True) as client:
        monkeypatch.setenv("PREFECT_API_URL", str(client.api_url))
        yield client
        for flow in client.read_flows():
            if flow.name in ("pumped", "beside", "counts"):
                client.delete_flow(flow.id)


def deploy(flow: Flow[..., Any], name: str = "main", **options: Any) -> UUID:
    return flow.to_deployment(name, **options).apply()  # type: ignore[return-value]


def on_server(client: SyncPrefectClient) -> dict[str, list[str]]:
    """Return the objects on the Prefect server by kind, except events and logs, which expire."""
    paths = ["deployments", "flows", "flow_runs", "artifacts", "automations", "v2/concurrency_limits"]
    found = {path: client.request("POST", f"/{path}/filter", json={}).json() for path in paths}  # type: ignore[arg-type]
    return {path: sorted(each["id"] for each in of) for path, of in found.items()}


def removed(name: str, root: Path, *, with_data: bool = True, timeout: float = 20) -> str:
    """Remove a flow or a deployment and return what was printed."""
    out = io.StringIO()
    remove(Console(file=out, width=300), name, root=root, with_data=with_data, yes=True, timeout=timeout)
    return out.getvalue()


def again(name: str) -> DeploymentEventTrigger:
    return DeploymentEventTrigger(name=f"run {name} again", expect={"prefect.flow-run.Crashed"})


def running(client: SyncPrefectClient, deployment: UUID) -> UUID:
    made = client.create_flow_run_from_deployment(deployment).id
    client.set_flow_run_state(made, Running(), force=True)
    return made


@pytest.fixture
def stops_when_cancelled(client: SyncPrefectClient) -> Iterator[Callable[[UUID, Callable[[], object]], None]]:
    """Return a function that acts as a run's process: it ends in good order once the run is cancelled."""
    threads = []

    def play(flow_run: UUID, end: Callable[[], object]) -> None:
        def process() -> None:
            with get_client(sync_client=True) as another:
                wait_until(
                    lambda: another.read_flow_run(flow_run).state_name == "Cancelling", "the run to be cancelled"
                )
                end()
                another.set_flow_run_state(flow_run, Cancelled(), force=True)

        thread = threading.Thread(target=contextvars.copy_context().run, args=(process,))
        thread.start()
        threads.append(thread)

    yield play
    for thread in threads:
        thread.join()


def test_remove_with_data_leaves_server_and_redis_as_before_an_outlet(
    client: SyncPrefectClient,
    real_redis: redis.Redis,
    tmp_path: Path,
    stops_when_cancelled: Callable[[UUID, Callable[[], object]], None],
) -> None:
    deploy(beside, interval=3600)
    for topic in ("common", "other", "counted"):
        push_all(real_redis, topic, [0, 1, 2])
    run(lambda source: source.sink(lambda _: None), real_redis, "common", group="another")
    before, keys = on_server(client), everything(real_redis)
    main = deploy(counts, concurrency_limit=1, triggers=[again("counts")])
    deploy(counts, "replay", parameters={"group": "counts-replay", "topics": "common"})
    with get_client(sync_client=True) as another:
        ended = client.create_flow_run_from_deployment(main).id
        another.set_flow_run_state(ended, Completed(), force=True)
    run(lambda source: counts.build(source).sink(lambda _: None), real_redis, ["common", "other"], group="counts")
    run(lambda source: counts.build(source).sink(lambda _: None), real_redis, "common", group="counts-replay")
    alive = Consumer(real_redis, ["common", "other"], "counts")
    alive.step(0)
    flow_run = running(client, main)
    stops_when_cancelled(flow_run, alive.leave)
    output = removed("counts", tmp_path)
    assert on_server(client) == before
    assert everything(real_redis) == keys
    assert "automation 'run counts again'" in output
    assert "1 run to end" in output
    assert "group 'counts' on topic 'other': 0 pending, 1 dead letter" in output
    assert "group 'counts-replay' on topic 'common'" in output
    assert "topic 'counted' stays, with the results in it; `sluice topics drop counted` deletes it" in output


def test_remove_with_data_leaves_server_and_redis_as_before_an_inlet(
    client: SyncPrefectClient, real_redis: redis.Redis, tmp_path: Path
) -> None:
    push_all(real_redis, "other", [1])
    before, keys = on_server(client), everything(real_redis)
    of = deploy(pumped, interval=3600)
    pump(real_redis, "common", "pumped")
    run(lambda source: source.sink(lambda _: None), real_redis, "common", group="lab")
    SharedPoll(real_redis, name="run", deployment=str(of)).look()
    SharedPoll(real_redis, name="run", deployment=str(of)).leave()
    output = removed("pumped/main", tmp_path)
    assert "topic 'common': 2 entries" in output
    assert "groups 'lab'" in output
    assert "beats of pumped" in output
    assert on_server(client) == before
    assert everything(real_redis) == keys


def test_remove_keeps_a_topic_that_another_deployment_uses(
    client: SyncPrefectClient, real_redis: redis.Redis, tmp_path: Path
) -> None:
    deploy(pumped, interval=3600)
    deploy(beside, interval=3600)
    pump(real_redis, "common", "beside")
    pushed = real_redis.xlen("common")
    beat = pump(real_redis, "common", "pumped")
    output = removed("pumped", tmp_path)
    assert "topic 'common' stays: beside/main uses it" in output
    assert real_redis.xlen("common") == pushed + 2
    assert not list(real_redis.scan_iter(f"{beat.key}*"))
    assert [name.split(b":")[1] for name in real_redis.hkeys("sluice:topic:common") if b":" in name] == [b"beside"]  # type: ignore[union-attr]


def test_remove_without_data_keeps_keys_and_run_history(
    client: SyncPrefectClient, real_redis: redis.Redis, tmp_path: Path
) -> None:
    of = deploy(counts)
    ended = running(client, of)
    client.set_flow_run_state(ended, Completed(), force=True)
    push_all(real_redis, "common", [1])
    run(counts.build, real_redis, "common", group="counts")
    keys = everything(real_redis)
    removed("counts", tmp_path, with_data=False)
    assert everything(real_redis) == keys
    assert client.read_flow_run(ended).state_name == "Completed"
    assert not [each for each in client.read_deployments() if each.id == of]


def test_remove_deletes_the_artifacts_of_its_runs_alone(
    client: SyncPrefectClient, real_redis: redis.Redis, tmp_path: Path
) -> None:
    of = deploy(counts)
    for key, flow_run in (("another-report", None), ("outlet-counts", running(client, of))):
        before = on_server(client)["artifacts"]
        artifact = {"key": key, "type": "markdown", "flow_run_id": str(flow_run) if flow_run else None}
        client.request("POST", "/artifacts/", json=artifact)
    client.set_flow_run_state(flow_run, Completed(), force=True)
    removed("counts", tmp_path)
    assert on_server(client)["artifacts"] == before


def test_remove_stops_before_it_deletes_if_a_run_does_not_end(client: SyncPrefectClient, tmp_path: Path) -> None:
    of = deploy(counts)
    left = running(client, of)
    with pytest.raises(UnavailableError, match="has not ended.*its schedule is paused.*nothing else is removed yet"):
        removed("counts", tmp_path, timeout=1)
    assert client.read_deployment(of).paused
    client.set_flow_run_state(left, Cancelled(), force=True)
    removed("counts", tmp_path)
    assert not [each for each in client.read_deployments() if each.id == of]


def test_remove_names_a_consumer_that_is_no_run_and_can_be_repeated(
    client: SyncPrefectClient, real_redis: redis.Redis, tmp_path: Path
) -> None:
    of = deploy(counts)
    push_all(real_redis, "common", [1])
    notebook = Consumer(real_redis, "common", "counts", name="notebook", lease_ttl=60)
    notebook.step(0)
    with pytest.raises(SettingsError, match="got notebook; nothing was dropped.*repeat the command for the rest"):
        removed("counts", tmp_path, timeout=1)
    assert client.read_deployment(of).paused
    notebook.leave()
    removed("counts", tmp_path)
    assert real_redis.xinfo_groups("common") == []


def test_remove_asks_and_changes_nothing_without_a_yes(
    client: SyncPrefectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(counts, triggers=[again("counts")])
    before = on_server(client)
    for answer in ("n\n", ""):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        with pytest.raises(SettingsError, match="expected a yes, got none; nothing was changed"):
            remove(Console(file=io.StringIO()), "counts", root=tmp_path, timeout=1)
    assert on_server(client) == before
    removed("counts", tmp_path)  # other tests count the automations on this server


def test_remove_names_blocks_code_and_automations_to_delete_by_hand(client: SyncPrefectClient, tmp_path: Path) -> None:
    of = deploy(counts)
    entrypoint = client.read_deployment(of).entrypoint
    (tmp_path / "prefect.yaml").write_text(f"deployments:\n  - name: main\n    entrypoint: {entrypoint}  # counts\n")
    actions = [RunDeployment(source="selected", deployment_id=of), RunDeployment(source="inferred")]
    made = client.create_automation(AutomationCore(name="mixed", trigger=EventTrigger(expect={"odd"}, posture=Posture.Reactive, threshold=1), actions=actions))  # fmt: skip
    output = removed("counts", tmp_path)
    client.delete_automation(made)
    assert f"delete the block of {entrypoint} in prefect.yaml, line 3, or the next deploy brings it back" in output
    assert "delete counts in tests/commands/test_remove.py" in output
    assert "the automation 'mixed' runs counts/main, besides other things" in output


def test_remove_of_an_unknown_name_lists_the_deployments(client: SyncPrefectClient, tmp_path: Path) -> None:
    deploy(counts)
    with pytest.raises(
        SettingsError, match="expected the name of a deployment, got 'count'; the server has: .*counts/main"
    ):
        removed("count", tmp_path)


topics = st.frozensets(st.sampled_from("abc"), max_size=2)
uses = st.builds(
    Uses,
    inlet=st.sampled_from(["one", "two"]),
    pumps=topics,
    reads=st.frozensets(st.tuples(st.sampled_from(["a", "b", "a:dead:g"]), st.sampled_from("gh")), max_size=2),
    results=topics,
)


@given(chosen=st.dictionaries(st.integers(0, 9).map(str), uses, min_size=1, max_size=3), others=st.dictionaries(st.integers(10, 19).map(str), uses, max_size=3))  # fmt: skip
def test_only_data_of_the_chosen_deployments_alone_is_removed(chosen: dict[str, Uses], others: dict[str, Uses]) -> None:
    found = unshared(chosen, others)
    in_use = {topic for each in others.values() for topic in each.topics}
    assert not in_use & set(found.topics)
    assert not {pair for each in others.values() for pair in each.reads} & set(found.groups)
    assert not {(topic, each.inlet) for each in others.values() for topic in each.pumps} & set(found.inlets)
    pumped_into = {topic for each in chosen.values() for topic in each.pumps}
    assert set(found.topics) == pumped_into - in_use
    assert {topic for topic, _ in found.inlets} <= pumped_into & in_use
    for pair in {pair for each in chosen.values() for pair in each.reads}:
        gone = pair in found.groups or pair[0] in found.topics
        assert gone or any(pair in each.reads for each in others.values())
