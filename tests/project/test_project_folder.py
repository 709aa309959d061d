"""The project's folder: named, nearest, or the clone; one of another user is refused."""

import os
from pathlib import Path

import pytest

from tasks.base import project_folder
from tasks.base.project_folder import PROJECT, checkout, find_project, project_dir, up_command
from tasks.base.state_folder import STATE_DIR, mode_of, state_dir
from tasks.errors import SettingsError
from tasks.settings import REDIS_URL, redis_url
from tests.support.plain import ROOT

OURS = "definitions:\n  pool: &pool\n    name: sluice\ndeployments: []\n"


@pytest.fixture(autouse=True)
def nothing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (PROJECT, STATE_DIR, REDIS_URL):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Pretend that Sluice's code is in site-packages."""
    monkeypatch.setattr(project_folder, "CODE", tmp_path / "lib" / "site-packages")


def project(folder: Path, text: str = OURS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prefect.yaml").write_text(text)
    return folder


def test_clone_is_the_project_where_no_other_is_nearer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (project_dir(), state_dir(), checkout()) == (ROOT, ROOT / ".sluice", ROOT)
    monkeypatch.chdir(ROOT / "docs")
    assert project_dir() == ROOT
    monkeypatch.chdir(project(tmp_path / "mine"))
    assert project_dir() == tmp_path / "mine"


@pytest.mark.usefixtures("wheel")
@pytest.mark.parametrize(
    ("text", "is_ours"),
    [
        (OURS, True),
        ("work_pool: {name: sluice}", True),
        ("work_pool: {name: 'sluice', job_variables: {}}", True),
        ('name: "sluice"  # the pool\r\n', True),
        ("name: sluice", True),
        ("name: sluice-gate\n", False),
        ("name: my sluice\n", False),
        ("username: sluice\n", False),
        ("", False),
    ],
)
def test_project_is_the_nearest_prefect_yaml_of_sluice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, is_ours: bool
) -> None:
    inner = project(project(tmp_path / "outer") / "inner", text)
    (inner / "deep").mkdir()
    monkeypatch.chdir(inner / "deep")
    assert find_project() == (inner if is_ours else inner.parent)
    assert checkout() is None


@pytest.mark.usefixtures("wheel")
def test_named_project_comes_first_and_has_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project(tmp_path / "here"))
    project(tmp_path / "named", "name: anything\n")
    monkeypatch.setenv(PROJECT, "../named/")
    assert state_dir() == tmp_path / "named" / ".sluice"
    monkeypatch.setenv(PROJECT, str(tmp_path))
    with pytest.raises(SettingsError, match="SLUICE_PROJECT: expected a folder with a prefect.yaml, found none in "):
        state_dir()
    monkeypatch.setenv(STATE_DIR, str(tmp_path / "state"))
    assert state_dir() == tmp_path / "state"


@pytest.mark.usefixtures("wheel")
def test_project_of_another_user_is_refused_unless_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = project(tmp_path / "theirs")
    monkeypatch.chdir(theirs)
    monkeypatch.setattr(os, "geteuid", lambda: theirs.stat().st_uid + 1)
    if theirs.stat().st_uid == 0:  # root is trusted, so give the file to another user
        os.chown(theirs / "prefect.yaml", 12345, -1)
    with pytest.raises(SettingsError, match="which belongs to another user .* set SLUICE_PROJECT="):
        project_dir()
    monkeypatch.setenv(PROJECT, str(theirs))
    assert project_dir() == theirs


@pytest.mark.usefixtures("wheel")
def test_errors_without_a_project_name_the_remedy_and_scripts_still_run(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"found no prefect.yaml with the work pool sluice in .* `sluice init`"):
        state_dir()
    with pytest.raises(SettingsError, match=r"expected a Redis to use, .* set SLUICE_REDIS_URL=.* `sluice init`"):
        redis_url()
    assert mode_of(tmp_path / "archive") == 0o777


@pytest.mark.usefixtures("wheel")
def test_deleted_working_directory_is_no_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old").mkdir()
    monkeypatch.chdir(tmp_path / "old")
    (tmp_path / "old").rmdir()
    assert find_project() is None
    with pytest.raises(SettingsError, match="expected a project"):
        project_dir()


def test_hints_name_the_command_that_starts_this_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert up_command() == "make up"
    with pytest.raises(SettingsError, match=r"run `make up`, or set SLUICE_REDIS_URL"):
        redis_url()
    monkeypatch.chdir(project(tmp_path / "mine"))
    assert up_command() == "sluice up"
    with pytest.raises(SettingsError, match=r"run `sluice up`, or set SLUICE_REDIS_URL"):
        redis_url()
    monkeypatch.setenv(PROJECT, str(tmp_path / "missing"))
    assert up_command() == "sluice up"
