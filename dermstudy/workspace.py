"""What a notebook sees of the disk: tables, figures and artifacts of one results folder, and the versions that made them."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from dermstudy.files import InputError, atomic_path, restore, restore_all, write_text

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "tensorflow",
    "keras",
    "torch-fidelity",
    "scikit-learn",
    "scikit-image",
    "scipy",
    "numpy",
    "pandas",
    "statsmodels",
    "matplotlib",
    "seaborn",
    "papermill",
)
PICTURES = (".png", ".jpg")


@dataclass(frozen=True)
class Workspace:
    """One results folder: tables and figures to commit, artifacts (heavy, outside git) between notebooks."""

    root: Path

    @property
    def tables(self) -> Path:
        return self.root / "tables"

    @property
    def figures(self) -> Path:
        return self.root / "figures"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def notes(self) -> Path:
        return self.artifacts / "notes"

    def save_table(self, frame, name: str):
        """Write `frame` (without a default index) to tables/<name>.csv and return it."""
        with atomic_path(self.tables / f"{name}.csv") as path:
            frame.to_csv(
                path,
                index=any(label is not None for label in frame.index.names),
                lineterminator="\n",
                float_format="%.6g",
            )
        return frame

    def save_figure(self, figure, name: str):
        """Write `figure` to figures/<name>.png, a sheet of images to <name>.jpg, a plot as PDF as well, and return it."""
        from dermstudy import figures

        figures.save(figure, self.figures, name)
        figures.show_sheets_as_jpeg()
        return figure

    def pictures(self) -> dict[str, Path]:
        """The figures that lie in figures/, by name: the PNG or the JPEG of each."""
        return {path.stem: path for path in sorted(self.figures.glob("*")) if path.suffix in PICTURES}

    def note(self, name: str, value):
        """Keep a measure of this run, such as seconds or megabytes, for the manifest, and return it.

        value: a number, text, or lists and dictionaries of such. Tables hold none of these: no two runs take equally long.
        InputError for a name that is no plain word and a value that JSON cannot hold.
        """
        if not re.fullmatch(r"\w+", name):
            raise InputError(f"a note is named by a word, not {name!r}")
        try:
            text = json.dumps(value, indent=1, default=lambda number: number.item())
        except (TypeError, ValueError, AttributeError) as error:
            raise InputError(f"note {name} is no number, text, list or dictionary: {error}") from error
        write_text(self.notes / f"{name}.json", text + "\n")
        return value

    def save_pipeline(self, pipeline, name: str) -> Path:
        """Write a diffusers pipeline to the folder artifacts/<name>, in place of an earlier one, and return it."""
        with atomic_path(self.out(name)) as path:
            pipeline.save_pretrained(path)
        return self.out(name)

    def out(self, name: str) -> Path:
        """The path artifacts/<name>, for the notebook that makes it."""
        return self.artifacts / name

    def need(self, name: str, made_by: str) -> Path:
        """The path artifacts/<name>; InputError names the notebook to run first where it is missing."""
        path = self.artifacts / name
        restore(path)
        if not path.exists():
            raise InputError(
                f"{shown(path)} is missing: run notebook {made_by} into the same RESULTS folder first, "
                "or open this one with `dermstudy lab`, which does so"
            )
        return path


def project_root() -> Path:
    """The checkout that holds notebooks/, profiles/ and results/."""
    root = Path(__file__).resolve().parents[1]
    if not (root / "notebooks").is_dir():
        raise InputError(f"no notebooks/ beside the package in {root}: install it from a checkout (pip install -e .)")
    return root


def from_root(path: str | Path) -> Path:
    """`path` itself when absolute, otherwise taken from the project root."""
    path = Path(path).expanduser()
    return path if path.is_absolute() else project_root() / path


def shown(path: str | Path) -> str:
    """`path` as messages print it: relative to the project root where it lies inside."""
    path = Path(path)
    with contextlib.suppress(ValueError):
        return str(path.resolve().relative_to(project_root()))
    return str(path)


def open_workspace(results: str | Path) -> Workspace:
    """The workspace at `results` (a relative path is taken from the project root), its folders created.

    A notebook that has called this shows an InputError as its one line; every other error keeps its traceback.
    """
    _show_input_errors_plainly()
    space = Workspace(from_root(results))
    try:
        for folder in (space.tables, space.figures, space.artifacts):
            folder.mkdir(parents=True, exist_ok=True)
        restore_all(space.artifacts)
        with atomic_path(space.artifacts / ".writable") as probe:
            probe.touch()
    except (OSError, InputError) as error:
        reason = getattr(error, "strerror", None) or "not writable"
        raise InputError(
            f"cannot write to the results folder {shown(space.root)} ({reason}): "
            "choose another with --results or mend its permissions"
        ) from error
    return space


def _show_input_errors_plainly() -> None:
    ipython = sys.modules.get("IPython")  # there in a kernel only; the command line need not import it
    shell = ipython.get_ipython() if ipython else None
    if shell is not None:
        shell.set_custom_exc((InputError,), _show_plainly)


def _show_plainly(shell, kind, error, traceback, tb_offset=None) -> list[str]:
    lines = [f"{kind.__name__}: {error}"]
    # As IPython shows any error, so that papermill and nbclient see the cell fail.
    shell._showtraceback(kind, error, lines)
    return lines


def commit() -> str:
    """The checkout's commit, with "+changes" where tracked files outside results/ differ; "unknown" without git."""
    try:
        git = ["git", "-C", str(project_root())]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!results"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+changes" if changed else "")


def last_commit(path: str) -> str:
    """The commit that last touched a file of the checkout, with "+changes" where it differs since.

    "unknown" without git, for a file that no commit holds, and where a shallow clone was cut off before that commit.
    """
    try:
        git = ["git", "-C", str(project_root())]
        options = dict(capture_output=True, text=True, check=True)
        touched = subprocess.run([*git, "log", "-1", "--format=%H", "--", path], **options).stdout.strip()
        cut = Path(subprocess.run([*git, "rev-parse", "--git-path", "shallow"], **options).stdout.strip())
        cut = project_root() / cut  # where a clone was cut off, a commit seems to hold every file for the first time
        if cut.is_file() and touched in cut.read_text(encoding="utf-8").split():
            touched = ""
        changed = subprocess.run([*git, "status", "--porcelain", "--", path], **options).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return (touched or "unknown") + ("+changes" if changed else "")


def versions(*packages: str) -> dict[str, str]:
    """Installed versions by distribution name (all of the study's main packages by default)."""
    return {name: importlib.metadata.version(name) for name in packages or PACKAGES}


def version_line(*packages: str) -> str:
    """One line with the Python, dermstudy and package versions, for the end of a notebook."""
    parts = [f"Python {platform.python_version()}", f"dermstudy {importlib.metadata.version('dermstudy')}"]
    return " · ".join(parts + [f"{name} {version}" for name, version in versions(*packages).items()])
