"""`sluice init` makes a project in an empty folder or beside code, for a Sluice that is installed from a wheel."""

import os
import shutil
from collections.abc import Mapping
from importlib.metadata import distribution
from pathlib import Path
from string import Template

from rich.console import Console

from deployments.commands import init_templates as templates
from deployments.commands.init_requirement import Requirement, requirement_of
from tasks.base.project_folder import CODE, PREFECT_YAML, hiding
from tasks.errors import SettingsError

__all__ = ["init"]

_KEPT = {
    "requirements.txt": "add this line to it: {requirement}",
    "tests/conftest.py": "give its tests a hypothesis profile with deadline=None",
}


def init(console: Console, folder: Path, *, with_examples: bool = False) -> None:
    """Make a project in `folder`, which is created if it is missing; list what was written and what to do next.

    Files that exist stay as they are. Only `.gitignore` gets lines at its end.

    with_examples    deploy the example flows that come with Sluice as well
    raises    SettingsError: the folder holds a project, or files with the names of new ones; nothing was written
    """
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 - without '..'; links stay as they are
    _check(folder)
    requirement = requirement_of(distribution("sluice"))
    texts = {
        PREFECT_YAML: templates.PREFECT_YAML + (f"\n{templates.EXAMPLES}" if with_examples else ""),
        **templates.FILES,
        "requirements.txt": Template(templates.REQUIREMENTS).substitute(requirement=requirement.line),
    }
    kept = [name for name in texts if (folder / name).exists()]
    new = {folder / name: text for name, text in texts.items() if name not in kept}
    _write(new, folder, requirement)
    for path in new:
        console.print(f"wrote {path.relative_to(folder)}", highlight=False)
    if requirement.wheel:
        console.print(f"copied {requirement.wheel.name} to wheels/", highlight=False, soft_wrap=True)
    for name in kept:
        what = _KEPT.get(name, "it stays as it is").format(requirement=requirement.line)
        console.print(f"kept {name}: {what}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    if added := _ignore(folder / ".gitignore"):
        console.print(f"added {', '.join(added)} to .gitignore", highlight=False, soft_wrap=True)
    console.print(_next_steps(folder, requirement), highlight=False, markup=False, soft_wrap=True)


def _check(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        msg = f"expected a folder, got the file {folder}; nothing was written"
        raise SettingsError(msg)
    if folder == CODE or CODE in folder.parents:
        msg = f"expected a folder outside Sluice's own code, got {folder}; nothing was written; give another: sluice init FOLDER"
        raise SettingsError(msg)
    if (folder / PREFECT_YAML).exists():
        msg = (
            f"expected no {PREFECT_YAML} in {folder}, found one; nothing was written; make the project in a folder of its own: "
            "sluice init FOLDER"
        )
        raise SettingsError(msg)
    if found := hiding(folder):
        msg = (
            f"expected no {', '.join(found)} in {folder}: a run would import it instead of Sluice's package of that name; "
            "nothing was written; rename it, or make the project in a folder of its own: sluice init FOLDER"
        )
        raise SettingsError(msg)
    starters = [name for name in templates.FILES if name.endswith("memory.py") and (folder / name).exists()]
    if starters:
        msg = f"expected no {' and no '.join(starters)} in {folder}; nothing was written; rename the existing files"
        raise SettingsError(msg)


def _write(files: Mapping[Path, str], folder: Path, requirement: Requirement) -> None:
    """Write the files and copy the wheel, or write nothing."""
    written: list[Path] = []
    try:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                written.append(path)
                file.write(text)
        if requirement.wheel and not (copy := folder / "wheels" / requirement.wheel.name).exists():
            copy.parent.mkdir(exist_ok=True)
            written.append(copy)
            shutil.copyfile(requirement.wheel, copy)
    except OSError as error:
        for path in written:
            path.unlink(missing_ok=True)
        msg = f"{error.filename or folder}: cannot be written ({error.strerror}); nothing was written"
        raise SettingsError(msg) from error


def _ignore(file: Path) -> list[str]:
    """Append the lines that a `.gitignore` lacks; return them."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    there = {line.strip().strip("/") for line in text.splitlines()}
    added = [line for line in templates.IGNORED if line.strip("/") not in there]
    if added:
        gap = "" if not text or text.endswith("\n") else "\n"
        with file.open("a", encoding="utf-8") as opened:
            opened.write(f"{gap}{chr(10).join(added)}\n")
    return added


def _next_steps(folder: Path, requirement: Requirement) -> str:
    steps = [
        ("python -m pytest", "the tests pass as they are; requirements.txt names what they need"),
        ("sluice up", "starts everything, prints the UI's address and live results, until Ctrl-C"),
        ("sluice new inlet NAME", "adds pipelines/NAME.py, its deployment and its test; likewise an outlet"),
    ]
    if requirement.command:
        steps.insert(0, (requirement.command, "makes the wheel that requirements.txt names; commit it"))
    width = max(len(command) for command, _ in steps if command != requirement.command)
    lines = [f"  {command:{width}}   # {what}" for command, what in steps]
    where = "" if folder == Path.cwd() else f", in {folder}"
    return "\n".join(["", f"Next{where}:", *lines])
