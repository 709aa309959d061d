"""Markdown as the docs' tests see it: fenced blocks, links, anchors, and the tests that a page names."""

import ast
import re
import shutil
import unicodedata
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

__all__ = [
    "PAGES",
    "ROOT",
    "Block",
    "anchors",
    "blocks",
    "checkout_with",
    "commands",
    "deployments_shown",
    "files_shown",
    "links",
    "names_of_tests",
    "without_blocks",
]

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """One fenced block: where it begins, its language and its text."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        """Return where it is, for the names of tests and what they say."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file(self) -> str:
        """The file that it is, said in its first line; '' if it is none."""
        match = re.match(r"# ([\w./-]+\.\w+)\n", self.text)
        return match[1] if match else ""


@cache
def blocks(*languages: str) -> list[Block]:
    """Return all blocks of all pages, or those in some languages."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in _FENCE.finditer(text):
            found.append(Block(page, text[: match.start()].count("\n") + 1, match[2], match[3]))
    return [block for block in found if not languages or block.language in languages]


def commands(block: Block) -> list[str]:
    """Return a block's commands, one a line, continued lines joined, comments left out."""
    joined = re.sub(r"\\\n\s*", "", block.text)
    return [line for raw in joined.splitlines() if (line := re.sub(r"(^|\s+)#.*$", "", raw).strip())]


def files_shown() -> dict[str, str]:
    """Return the files that pages show, by name: the same on every page that shows one."""
    found: dict[str, str] = {}
    for block in blocks("python"):
        if block.file:
            assert found.setdefault(block.file, block.text) == block.text, f"{block} shows another {block.file}"
    return found


def deployments_shown() -> list[dict[str, Any]]:
    """Return what pages add to `prefect.yaml`, each once; where two pages show one, they show the same."""
    base = (ROOT / "prefect.yaml").read_text()
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for block in blocks("yaml"):
        for each in yaml.safe_load(f"{base}\n{block.text}")["deployments"][len(yaml.safe_load(base)["deployments"]) :]:
            key = (each["entrypoint"], each["name"])
            assert found.setdefault(key, each) == each, f"{block} shows another {key}"
    return list(found.values())


def checkout_with(files: dict[str, str], folder: Path) -> Path:
    """Return a folder in which `flows/` and `tests/` have these files besides ours."""
    (folder / "tests").mkdir()
    shutil.copytree(ROOT / "flows", folder / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def without_blocks(text: str) -> str:
    """Return what a page says outside of its fenced blocks."""
    return _FENCE.sub("", text)


def links(page: Path) -> list[str]:
    """Return where a page's links and images lead."""
    return _LINK.findall(without_blocks(page.read_text()))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", without_blocks(page.read_text()), re.MULTILINE)
    return {_slug(heading) for heading in headings}


def _slug(heading: str) -> str:
    kept = [c for c in heading.lower() if c in " -_" or unicodedata.category(c)[0] in "LN"]
    return "".join(kept).replace(" ", "-")


@cache
def names_of_tests(file: Path) -> frozenset[str]:
    """Return the names of the test functions in a file."""
    tree = ast.parse(file.read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
