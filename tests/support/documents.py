"""Parts of Markdown pages for tests of the docs: fenced blocks, links, anchors, and names of tests."""

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
    """One fenced block: page, first line, language and text."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        """Return the block's place, for test ids and messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file(self) -> str:
        """The file name in the block's first line; '' if there is none."""
        match = re.match(r"# ([\w./-]+\.\w+)\n", self.text)
        return match[1] if match else ""


@cache
def blocks(*languages: str) -> list[Block]:
    """Return the blocks of all pages, optionally only those in some languages."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in _FENCE.finditer(text):
            found.append(Block(page, text[: match.start()].count("\n") + 1, match[2], match[3]))
    return [block for block in found if not languages or block.language in languages]


def commands(block: Block) -> list[str]:
    """Return a block's commands, with continued lines joined and comments removed."""
    joined = re.sub(r"\\\n\s*", "", block.text)
    return [line for raw in joined.splitlines() if (line := re.sub(r"(^|\s+)#.*$", "", raw).strip())]


def files_shown() -> dict[str, str]:
    """Return the files on pages by name; a file must be the same on all pages."""
    found: dict[str, str] = {}
    for block in blocks("python"):
        if block.file:
            assert found.setdefault(block.file, block.text) == block.text, f"{block} shows another {block.file}"
    return found


def deployments_shown() -> list[dict[str, Any]]:
    """Return the deployments that pages add to `prefect.yaml`; one must be the same on all pages."""
    base = (ROOT / "prefect.yaml").read_text()
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for block in blocks("yaml"):
        for each in yaml.safe_load(f"{base}\n{block.text}")["deployments"][len(yaml.safe_load(base)["deployments"]) :]:
            key = (each["entrypoint"], each["name"])
            assert found.setdefault(key, each) == each, f"{block} shows another {key}"
    return list(found.values())


def checkout_with(files: dict[str, str], folder: Path) -> Path:
    """Return a folder with a copy of `flows/`, an empty `tests/`, and the given files."""
    (folder / "tests").mkdir()
    shutil.copytree(ROOT / "flows", folder / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def without_blocks(text: str) -> str:
    """Return a page's text outside its fenced blocks."""
    return _FENCE.sub("", text)


def links(page: Path) -> list[str]:
    """Return the targets of a page's links and images."""
    return _LINK.findall(without_blocks(page.read_text()))


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub creates for a page's headings."""
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
