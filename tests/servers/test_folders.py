"""Only this user can enter the state folder, whichever part of Sluice creates it first."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deployments.servers import ledger
from deployments.servers.child import Child
from deployments.servers.ledger import Ledger
from deployments.servers.redis_server import RedisServer
from tasks.archive import durable_files as durable
from tasks.base.state_folder import state_dir


@pytest.fixture(autouse=True)
def everyones_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(folder: Path) -> int:
    return stat.S_IMODE(folder.stat().st_mode)


def by_ledger() -> None:
    with Ledger(state_dir()).held():
        pass


def by_redis() -> None:
    with RedisServer(state_dir() / "redis"):
        pass


def by_child() -> None:
    child = Child("child", ["true"], log=state_dir() / "logs" / "child.log")
    child.start()
    child.kill()


def by_archive() -> None:
    durable.make_folder(state_dir() / "archive" / "day=2026-01-01")


@pytest.mark.parametrize("make", [by_ledger, by_redis, by_child, by_archive])
def test_the_state_folder_is_private_from_its_first_creation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[], None]
) -> None:
    monkeypatch.setenv("SLUICE_STATE_DIR", str(tmp_path / ".sluice"))
    make()
    made = [state_dir(), *(path for path in state_dir().rglob("*") if path.is_dir())]
    assert {mode(each) for each in made if each.name != "appendonlydir"} == {0o700}, (
        "all but what Redis makes inside its own"
    )


def test_a_dataset_elsewhere_has_the_permissions_of_the_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_STATE_DIR", str(tmp_path / ".sluice"))
    durable.make_folder(tmp_path / "shared" / "day=2026-01-01")
    assert mode(tmp_path / "shared" / "day=2026-01-01") == 0o755


@pytest.mark.parametrize(("is_default", "after"), [(True, 0o700), (False, 0o755)])
def test_a_state_folder_open_to_others_is_made_private_unless_the_user_named_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_default: bool, after: int
) -> None:
    folder = tmp_path / ".sluice"
    folder.mkdir(mode=0o755)
    if is_default:
        monkeypatch.delenv("SLUICE_STATE_DIR", raising=False)
        monkeypatch.setattr(ledger, "state_dir", lambda: folder)
    else:
        monkeypatch.setenv("SLUICE_STATE_DIR", str(folder))
    with Ledger(folder).held():
        assert mode(folder) == after
