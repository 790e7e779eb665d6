"""What the repository's Markdown pages point at, and what of it is not there: links, anchors, files named in the text."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

PAGES = ("*.md", "docs/*.md", "weights/*/README.md", "results/*/README.md")
LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)")
SOURCE = re.compile(r"<(?:img|a)\b[^>]*?\b(?:src|href)=\"([^\"]+)\"")
NAMED = re.compile(r"`([\w.-]+(?:/[\w.-]+)+/?)`")  # a path in running text; one word alone may be anything
SUFFIXES = (".md", ".py", ".ipynb", ".yaml", ".yml", ".csv", ".json", ".png", ".toml", ".lock", ".cff", ".txt", "/")
FENCE = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.S | re.M)
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*\s*$", re.M)


@dataclass(frozen=True)
class Checked:
    """What was looked at, and one line a fault."""

    pages: int
    targets: int
    faults: tuple[str, ...]


def check(root: Path) -> Checked:
    """Every relative link, anchor and named file of the pages under `root`, a git checkout.

    A file counts as there where git tracks it or would add it; a path that git ignores is one that a run makes.
    """
    present = _present(root)
    pages = sorted({path for pattern in PAGES for path in root.glob(pattern)})
    pages = [page for page in pages if page.relative_to(root).as_posix() in present]
    faults, targets = [], 0
    for page in pages:
        text = FENCE.sub("", page.read_text(encoding="utf-8"))
        place = page.relative_to(root).as_posix()
        links = [target for pattern in (LINK, SOURCE) for target in pattern.findall(text)]
        links = [target for target in links if not re.match(r"[a-z][a-z0-9+.-]*:", target)]
        named = [name for name in NAMED.findall(text) if name.endswith(SUFFIXES)]
        targets += len(links) + len(named)
        faults += [
            f"{place} links to {target}: {why}" for target in links if (why := _link_fault(root, page, target, present))
        ]
        faults += [
            f"{place} names {name}, which is not there" for name in named if not _is_there(root, page, name, present)
        ]
    return Checked(len(pages), targets, tuple(faults))


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings as GitHub makes them, or of a notebook's as JupyterLab does."""
    if path.suffix == ".ipynb":
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        return {heading.replace(" ", "-") for heading in HEADING.findall(FENCE.sub("", text))}
    found: dict[str, int] = {}
    names = set()
    for heading in HEADING.findall(FENCE.sub("", path.read_text(encoding="utf-8"))):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        count = found.get(name, 0)
        found[name] = count + 1
        names.add(f"{name}-{count}" if count else name)
    return names


def _present(root: Path) -> set[str]:
    """Files that git tracks or would add, which are on the disk, and their folders, relative to `root`."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    files = {name for name in names if name and (root / name).exists()}
    return files | {parent.as_posix() for name in files for parent in Path(name).parents}


def _link_fault(root: Path, page: Path, target: str, present: set[str]) -> str:
    """Why a relative link does not resolve; empty where it does."""
    file, _, anchor = target.partition("#")
    path = (page.parent / unquote(file)).resolve() if file else page.resolve()
    if not path.is_relative_to(root.resolve()):
        return "it lies outside the repository"
    if path.relative_to(root.resolve()).as_posix() not in present:
        return "no such file"
    if anchor and unquote(anchor) not in anchors(path):
        return "no such heading"
    return ""


def _is_there(root: Path, page: Path, name: str, present: set[str]) -> bool:
    """Whether a named path is in the repository, the page's folder or the package, is ignored, or stands for many (NN)."""
    if "NN" in name:
        return True
    for base in (root, page.parent, root / "dermstudy"):
        inside = (base / name).resolve()
        if inside.is_relative_to(root.resolve()) and inside.relative_to(root.resolve()).as_posix() in present:
            return True
    ignored = subprocess.run(["git", "-C", str(root), "check-ignore", "--quiet", name], capture_output=True)
    return ignored.returncode == 0
