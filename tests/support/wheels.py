"""Sluice's wheel and virtual environments with it, built and installed without a download."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from tests.support.plain import ROOT, clean_environment

__all__ = ["Installed", "build_wheel"]

PACKAGES = ("deployments", "flows", "tasks")


def build_wheel(folder: Path, *, version: str | None = None) -> Path:
    """Build the wheel of this tree in `folder`, optionally with another version, and return its path."""
    source = folder / "source"
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    if version:
        text = (source / "pyproject.toml").read_text()
        (line,) = (each for each in text.splitlines() if each.startswith("version = "))
        (source / "pyproject.toml").write_text(text.replace(line, f'version = "{version}"'))
    # --no-build-isolation: use the installed setuptools.
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(folder / "wheels")]
    _pip("wheel", str(source), *options)
    shutil.rmtree(source)
    (wheel,) = (folder / "wheels").iterdir()
    return wheel


class Installed:
    """A virtual environment with Sluice's wheel; its requirements come from the tests' environment."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        venv.create(folder, symlinks=True)
        self.bin = folder / "bin"
        self.packages = Path(self.run("python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        # Paths from here are searched, but .pth files in them are not read: the editable install of this tree stays out.
        (self.packages / "of-the-tests.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
        self.install(wheel)

    def install(self, wheel: Path) -> None:
        """Install a wheel, in place of any earlier one."""
        options = ["--no-deps", "--no-index", "--quiet", "--ignore-installed" if not self._has_one else "--upgrade"]
        _pip("--python", str(self.bin / "python"), "install", *options, str(wheel))

    def environment(self, **added: str) -> dict[str, str]:
        """Return the variables of a shell in which this environment is activated."""
        env = clean_environment(**added)
        env.pop("PYTHONPATH", None)
        env["PATH"] = os.pathsep.join([str(self.bin), env.get("PATH", os.defpath)])
        return env

    def run(self, program: str, *arguments: str, cwd: Path | None = None, **env: str) -> str:
        """Run a program of this environment, and return its output."""
        command = [str(self.bin / program), *arguments]
        if cwd:
            env["PWD"] = str(cwd)  # as a shell does: prefect.yaml uses it as the folder of runs
        done = subprocess.run(
            command, cwd=cwd, env=self.environment(**env), capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    @property
    def _has_one(self) -> bool:
        return any(self.packages.glob("sluice-*.dist-info"))


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
