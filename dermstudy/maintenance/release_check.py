"""What must hold before a release, one line a check: `make release-check`. The tests are CI's and are not run here.

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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from dermstudy import workspace
from dermstudy.diffusion import weights
from dermstudy.files import InputError
from dermstudy.maintenance import interface, markdown_links, packing
from dermstudy.maintenance.card import front_matter
from dermstudy.runner import findings

LARGEST_CLONE = 150_000_000  # bytes of a clone of depth 1, its history and its files
BLOCK = re.compile(r"<!-- dermstudy findings (\S+)( --headlines)? -->\n(.+?)\n<!-- end -->", re.S)
EMPTY_PLACE = re.compile(r"\{\w+\}|\bnan\b")  # of a template that was not filled in
SCHEMAS = {
    "vendor.citation-file-format": ["CITATION.cff"],
    "vendor.github-workflows": [".github/workflows/*.yml"],
}


class Fault(Exception):
    """Why a check does not hold, in one line."""


@dataclass(frozen=True)
class Outcome:
    """One check: its name, whether it holds, and what it found, in one line."""

    name: str
    holds: bool
    found: str

    def line(self) -> str:
        return f"{'ok   ' if self.holds else 'FAILS'} {self.name}: {self.found}"


def lint(root: Path) -> str:
    """Both linters, as `make lint` runs them, and the formatter."""
    notebooks = sorted(str(path) for path in (root / "notebooks").glob("*.ipynb"))
    commands = {
        "ruff check": ["ruff", "check", "."],
        "ruff format": ["ruff", "format", "--check", "dermstudy", "tests"],
        "nbstripout": ["nbstripout", "--verify", "--keep-id", *notebooks],
    }
    for name, command in commands.items():
        done = _run([str(Path(sys.executable).parent / command[0]), *command[1:]], root)
        if done.returncode:
            raise Fault(f"{name} finds faults: {_last_line(done)}")
    return ", ".join(commands)


def links(root: Path) -> str:
    """Every relative link, anchor and named file of the pages."""
    checked = markdown_links.check(root)
    if checked.faults:
        raise Fault(_several(checked.faults))
    return f"{checked.targets} links and named files of {checked.pages} pages"


def numbers(root: Path) -> str:
    """The pages' generated blocks are those of the tables, docs/API.md that of the sources, and versions agree."""
    count = 0
    for page in (*sorted(root.glob("*.md")), *sorted(root.glob("results/*/README.md"))):
        for results, headlines, block in BLOCK.findall(page.read_text(encoding="utf-8")):
            count += 1
            if block.strip() != findings.markdown(workspace.Workspace(root / results), bool(headlines)).strip():
                said = f"`dermstudy findings {results}{headlines}`"
                raise Fault(f"the table of {results} in {page.name} is not that of {said}")
    if not count:
        raise Fault("no page shows a table of findings")
    if (root / interface.PAGE).read_text(encoding="utf-8") != interface.page(root):
        raise Fault(f"{interface.PAGE} is not today's: python -m dermstudy.maintenance.interface")
    versions = {
        "pyproject.toml": tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"],
        "CITATION.cff": yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))["version"],
        ".zenodo.json": json.loads((root / ".zenodo.json").read_text(encoding="utf-8"))["version"],
        "dermstudy/__init__.py": re.search(
            r'^__version__ = "(.+)"$', (root / "dermstudy" / "__init__.py").read_text(encoding="utf-8"), re.M
        )[1],
    }
    if len(set(versions.values())) > 1:
        raise Fault("versions differ: " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    return f"{count} generated tables, {interface.PAGE}, version {versions['pyproject.toml']} in {len(versions)} files"


def card(root: Path) -> str:
    """Each shipped model: its checksums, and a card in Hugging Face's form with the tables' figures and no empty place."""
    folders = sorted(path.parent for path in (root / "weights").glob(f"*/{packing.CHECKSUMS}"))
    if not folders:
        raise Fault("no weights ship")
    files = 0
    for folder in folders:
        files += packing.verify(folder)
        text = (folder / "README.md").read_text(encoding="utf-8")
        if not text.startswith(front_matter(folder)):
            raise Fault(f"the front matter of {folder.name}'s card is not that of its tables: pack it again")
        if empty := EMPTY_PLACE.search(text):
            raise Fault(f"{folder.name}'s card has an empty place: {empty[0]}")
        described = weights.describe(folder)
        if not any("diagnosis" in warning for warning in described.warnings):
            raise Fault(f"{folder.name}'s card opens without the warning that it is not for diagnosis")
    return f"{files} files of {', '.join(folder.name for folder in folders)} as they were packed"


def metadata(root: Path) -> str:
    """The citation and the workflows against the schemas that check-jsonschema carries."""
    checked = 0
    for schema, patterns in SCHEMAS.items():
        paths = sorted(str(path) for pattern in patterns for path in root.glob(pattern))
        if not paths:
            raise Fault(f"nothing matches {', '.join(patterns)}")
        done = _run([sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *paths], root)
        if done.returncode:
            raise Fault(f"{', '.join(patterns)}: {_last_line(done)}")
        checked += len(paths)
    return f"{checked} files fit their schemas"


def sizes(root: Path) -> str:
    """A clone of depth 1, measured: what a newcomer fetches. It holds what is committed, not what lies about."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        done = _run(["git", "clone", "--quiet", "--depth", "1", f"file://{root}", str(clone)], root)
        if done.returncode:
            raise Fault(f"it cannot be cloned: {_last_line(done)}")
        size = sum(path.lstat().st_size for path in clone.rglob("*") if not path.is_dir())
    if size >= LARGEST_CLONE:
        raise Fault(f"a clone of depth 1 has {size / 1e6:.1f} MB; at most {LARGEST_CLONE / 1e6:.0f} may be")
    return f"a clone of depth 1 has {size / 1e6:.1f} of {LARGEST_CLONE / 1e6:.0f} MB"


def verified(root: Path) -> str:
    """The committed demo made once more, elsewhere: every table and figure equal."""
    done = subprocess.run(
        [sys.executable, "-m", "dermstudy", "verify", "results/demo"], cwd=root, stdout=subprocess.PIPE, text=True
    )
    line = (done.stdout.strip().splitlines() or ["it printed nothing"])[-1]
    if done.returncode:
        raise Fault(line)
    return line


CHECKS: dict[str, Callable[[Path], str]] = {
    "lint": lint,
    "links": links,
    "numbers": numbers,
    "card": card,
    "metadata": metadata,
    "sizes": sizes,
}


def outcome(name: str, check: Callable[[Path], str], root: Path) -> Outcome:
    """Run one check; whatever stops it is a check that does not hold."""
    try:
        return Outcome(name, True, check(root))
    except (Fault, InputError) as fault:
        return Outcome(name, False, str(fault))
    except Exception as fault:  # a check that breaks has not held, and those after it are still told
        return Outcome(name, False, f"{type(fault).__name__}: {' '.join(str(fault).split())}")


def main(arguments: list[str] | None = None) -> int:
    """Print a line a check, the slow one last; 0 where all hold, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m dermstudy.maintenance.release_check", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--skip-verify", action="store_true", help="do not make the committed demo once more")
    options = parser.parse_args(arguments)
    root = workspace.project_root()
    checks = CHECKS if options.skip_verify else CHECKS | {"verify": verified}
    fine = True
    for name, check in checks.items():
        found = outcome(name, check, root)
        print(found.line(), flush=True)
        fine &= found.holds
    if options.skip_verify:
        print("----- verify: skipped")
    return 0 if fine else 1


def _run(command: list[str], root: Path) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


def _last_line(done: subprocess.CompletedProcess) -> str:
    lines = [line.strip() for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
    return lines[-1] if lines else "no word of why"


def _several(faults: tuple[str, ...]) -> str:
    more = f"; {len(faults) - 3} more" if len(faults) > 3 else ""
    return "; ".join(faults[:3]) + more


if __name__ == "__main__":
    sys.exit(main())
