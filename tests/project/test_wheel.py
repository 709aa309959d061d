"""Sluice's wheel: its content, and the project that it uses."""

import zipfile
from pathlib import Path

import pytest

from tests.support.plain import ROOT
from tests.support.wheels import PACKAGES, Installed, build_wheel

PREFECT_YAML = "definitions:\n  pool: &pool {name: sluice}\ndeployments: []\n"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Installed:
    return Installed(tmp_path_factory.mktemp("installed"), wheel)


def test_wheel_contains_exactly_the_files_of_the_packages(wheel: Path) -> None:
    kept = [path for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file()]
    kept = {str(path.relative_to(ROOT)) for path in kept if "__pycache__" not in path.parts}
    kept = {name.removeprefix("deployments/") if name.startswith("deployments/sluice/") else name for name in kept}
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == kept
    assert {f"{name}/py.typed" for name in (*PACKAGES, "sluice")} <= kept


def test_installed_wheel_runs_on_its_own_files(installed: Installed, tmp_path: Path) -> None:
    names = "tasks, flows, deployments, sluice"
    code = f"import {names}; print(*(each.__file__ for each in ({names})), sep='\\n')"
    found = installed.run("python", "-c", code, cwd=tmp_path).splitlines()
    assert [Path(file).parent.parent for file in found] == [installed.packages] * 4


def test_installed_wheel_uses_the_nearest_project(installed: Installed, tmp_path: Path) -> None:
    inner = tmp_path / "mine" / "deep" / "folder"
    inner.mkdir(parents=True)
    (tmp_path / "mine" / "prefect.yaml").write_text(PREFECT_YAML)
    (inner.parent / "prefect.yaml").write_text("name: of-another-program\ndeployments: []\n")
    code = "from tasks.base.state_folder import state_dir; print(state_dir())"
    assert installed.run("python", "-c", code, cwd=inner).strip() == str(tmp_path / "mine" / ".sluice")
    assert installed.run("python", "-c", code, cwd=tmp_path, SLUICE_PROJECT="mine/").strip() == str(
        tmp_path / "mine" / ".sluice"
    )
