"""What must hold before a release, one line a check: `make release-check`. The tests and linters are CI's and are not run here.

The last step makes the committed demo once more, which takes as long as `make study`; `--skip-verify` leaves it out.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import yaml

from dermstudy import weight_files, workspace
from dermstudy.files import InputError

LARGEST_DOWNLOAD = 150_000_000  # bytes that a clone of depth 1 downloads
PAGES = ("*.md", "docs/*.md", "weights/*/README.md", "results/*/README.md")
LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)|<(?:img|a)\b[^>]*?\b(?:src|href)=\"([^\"]+)\"")
FENCE = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.S | re.M)
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*\s*$", re.M)
SCHEMAS = {
    "vendor.citation-file-format": ["CITATION.cff"],
    "vendor.github-workflows": [".github/workflows/*.yml", "docs/papermill.yml"],
}


def links(root: Path) -> str:
    """Every relative link of the pages, its anchor too, leads to a file that git tracks or would add."""
    listed = _run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], root).split("\0")
    present = {part for name in listed if (root / name).exists() for part in (root / name, *(root / name).parents)}
    pages = sorted(path for pattern in PAGES for path in root.glob(pattern) if path in present)
    faults, count = [], 0
    for page in pages:
        for pair in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
            file, _, anchor = (target := "".join(pair)).partition("#")
            if re.match(r"[a-z][a-z0-9+.-]*:", target):
                continue
            count, path = count + 1, (page.parent / unquote(file)).resolve() if file else page
            if path not in present or not path.is_relative_to(root):
                faults.append(f"{page.relative_to(root)} links to {target}: no such file")
            elif anchor and unquote(anchor) not in anchors(path):
                faults.append(f"{page.relative_to(root)} links to {target}: no such heading")
    if faults:
        raise InputError("; ".join(faults))
    return f"{count} links of {len(pages)} pages"


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings as GitHub makes them, or of a notebook's as JupyterLab does."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [cell["source"] for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        return {heading.replace(" ", "-") for cell in cells for heading in HEADING.findall("".join(cell))}
    plain = [
        re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in HEADING.findall(FENCE.sub("", text))
    ]
    names = Counter(re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain)
    return {f"{name}-{turn}" if turn else name for name, count in names.items() for turn in range(count)}


def versions(root: Path) -> str:
    """The version is the same wherever it is written."""
    texts = {
        name: (root / name).read_text(encoding="utf-8")
        for name in ("pyproject.toml", "CITATION.cff", ".zenodo.json", "dermstudy/__init__.py")
    }
    found = [
        tomllib.loads(texts["pyproject.toml"])["project"]["version"],
        yaml.safe_load(texts["CITATION.cff"])["version"],
        json.loads(texts[".zenodo.json"])["version"],
        re.search(r'^__version__ = "(.+)"$', texts["dermstudy/__init__.py"], re.M)[1],
    ]
    if len(set(found)) > 1:
        raise InputError("versions differ: " + ", ".join(map(" ".join, zip(texts, found, strict=True))))
    return f"{found[0]} in {len(found)} files"


def weights(root: Path) -> str:
    """Each shipped model is as it was packed."""
    folders = sorted(path.parent for path in (root / "weights").glob(f"*/{weight_files.CHECKSUMS}"))
    if not folders:
        raise InputError("no weights ship")
    return f"{sum(map(weight_files.verify, folders))} files of {', '.join(folder.name for folder in folders)}"


def metadata(root: Path) -> str:
    """The citation and the workflows against the schemas that check-jsonschema carries."""
    for schema, patterns in SCHEMAS.items():
        paths = sorted(str(path) for pattern in patterns for path in root.glob(pattern))
        _run([sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *paths], root)
    return f"{len(SCHEMAS)} schemas hold"


def sizes(root: Path) -> str:
    """A clone of depth 1, measured: what a newcomer downloads, and what lies on the disk with the files unpacked."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        _run(["git", "clone", "--quiet", "--depth", "1", f"file://{root}", str(clone)], root)
        download, disk = (
            sum(path.lstat().st_size for path in part.rglob("*") if not path.is_dir()) / 1e6
            for part in (clone / ".git" / "objects", clone)
        )
    said = (
        f"a clone of depth 1 downloads {download:.1f} of at most {LARGEST_DOWNLOAD / 1e6:.0f} MB ({disk:.1f} on disk)"
    )
    if download * 1e6 >= LARGEST_DOWNLOAD:
        raise InputError(said)
    return said


def verified(root: Path) -> str:
    """The committed demo made once more, elsewhere: every table and figure equal."""
    return _run([sys.executable, "-m", "dermstudy", "verify", "results/demo"], root).strip().splitlines()[-1]


CHECKS: dict[str, Callable[[Path], str]] = {
    check.__name__: check for check in (links, versions, weights, metadata, sizes, verified)
}


def outcome(name: str, root: Path) -> tuple[bool, str]:
    """Whether one of CHECKS holds, and what it found in one line; whatever stops a check is a check that does not hold."""
    try:
        return True, CHECKS[name](root)
    except InputError as fault:
        return False, str(fault)
    except Exception as fault:  # those after it are still told
        return False, f"{type(fault).__name__}: {' '.join(str(fault).split())}"


def main(arguments: list[str] | None = None) -> int:
    """Print a line a check, the slow one last; 0 where all hold, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m dermstudy_commands.maintenance.release_check", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--skip-verify", action="store_true", help="do not make the committed demo once more")
    options, fine = parser.parse_args(arguments), True
    for name in CHECKS:
        if name == verified.__name__ and options.skip_verify:
            continue
        holds, found = outcome(name, workspace.project_root())
        print(f"{'ok   ' if holds else 'FAILS'} {name}: {found}", flush=True)
        fine &= holds
    return 0 if fine else 1


def _run(command: list[str], root: Path) -> str:
    """What a command prints; InputError with its last line where it fails."""
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode:
        lines = [line.strip() for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
        raise InputError(lines[-1] if lines else f"{command[0]} failed without a word")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
