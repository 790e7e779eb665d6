"""What a notebook sees of the disk: tables, figures and artifacts of one results folder, and the versions that made them."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dermstudy.files import InputError, atomic_path, restore, restore_all, write_text
from dermstudy.parameters import typed

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
NEGATIVE = re.compile(r"(?<![\w−-])-(?=\d)")  # the hyphen before a negative number


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
        from dermstudy.tables import write_csv

        with atomic_path(self.tables / f"{name}.csv") as path:
            index = any(label is not None for label in frame.index.names)
            write_csv(frame, path, index=index, float_format="%.6g")
        return frame

    def table(self, name: str):
        """What `save_table` wrote under `name`, as pandas reads it; InputError where it is missing."""
        import pandas as pd

        path = self.tables / f"{name}.csv"
        if not path.is_file():
            raise InputError(f"{shown(path)} is missing: run the notebook that writes it into {shown(self.root)} first")
        return pd.read_csv(path)

    def finding(self, notebook: str, headline: str, *details: str) -> None:
        """Write what `notebook` found to findings/<notebook>.md and show it: a headline, then a line for each detail.

        The text comes from `table` alone. Details that are empty are left out; hyphens before numbers become minus signs.
        """
        lines = [headline, *(f"- {detail}" for detail in details if detail)]
        text = NEGATIVE.sub("−", "\n\n".join([lines[0], "\n".join(lines[1:])]).strip() + "\n")
        write_text(self.root / "findings" / f"{notebook}.md", text)
        if (ipython := sys.modules.get("IPython")) and ipython.get_ipython():  # in a kernel
            ipython.display.display(ipython.display.Markdown(f"**Finding.** {text}"))

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
                f"{shown(path)} is missing: run notebook {made_by} first (`{maker(path, made_by)}`), "
                "or open this one with `dermstudy lab`, which does so"
            )
        return path


def bounds(row, name: str, form: str = "+.3f") -> str:
    """A value of `row` with its interval, "0.20 (0.15 to 0.25)", from `name`_low and `name`_high or low and high.

    form: as format() takes it. Without an interval (none, or NaN) the value stands alone; zero has no sign.
    """
    low, high = (f"{name}_low", f"{name}_high") if f"{name}_low" in row else ("low", "high")
    form = "+z" + form[1:] if form.startswith("+") else "z" + form  # z: no minus before zero
    value, low, high = (f"{row.get(key, math.nan):{form}}" for key in (name, low, high))
    text = value if "nan" in low else f"{value} ({low} to {high})"
    return re.sub(r"[+](0\.0+)\b", r"\1", text)


def changes(frame, label: str, name: str = "difference", form: str = "+.3f") -> str:
    """`bounds` of each row of `frame` after the row's `label`: "a +0.1 (0.0 to +0.2); b ..."."""
    return "; ".join(f"{row[label]} {bounds(row, name, form)}" for row in frame.to_dict("records"))


def project_root() -> Path:
    """The checkout that holds notebooks/, profiles/ and results/; InputError where the package lies outside one."""
    root = Path(__file__).resolve().parents[1]
    if not (root / "notebooks").is_dir():
        raise InputError(
            f"this needs a checkout, and {root} holds no notebooks/: clone dermstudy and install it there with "
            "pip install -e . (classify, convert, synthesize, app and kit work without one; name --weights)"
        )
    return root


def from_root(path: str | Path) -> Path:
    """`path` itself when absolute or where the package lies outside a checkout, otherwise taken from the project root."""
    path = Path(path).expanduser()
    with contextlib.suppress(InputError):
        return path if path.is_absolute() else project_root() / path
    return path


def maker(path: str | Path, notebook: str) -> str:
    """The command that makes what lies at `path`, an artifact of a results folder, by `notebook` and those before it.

    The profile is the one that names this results folder; "PROFILE" where none does.
    """
    folder = from_root(path).parent
    results = shown(folder.parent) if folder.name == "artifacts" else ""
    for file in sorted((project_root() / "profiles").glob(f"*/{notebook}.yaml")):
        if results and f"RESULTS: {results}\n" in file.read_text(encoding="utf-8"):
            return f"dermstudy run {file.parent.name} --to {notebook[:2]}"
    return f"dermstudy run PROFILE --to {notebook[:2]}" + (f" --results {shlex.quote(results)}" if results else "")


def shown(path: str | Path) -> str:
    """`path` as messages print it: relative to the project root where it lies inside."""
    path = Path(path)
    with contextlib.suppress(ValueError, InputError):
        return str(path.resolve().relative_to(project_root()))
    return str(path)


def results_folder(results: str | Path) -> Path:
    """The folder that `results` names; a relative path is taken from the project root.

    InputError for a relative path that leaves the project root, or is that itself.
    """
    path = os.path.normpath(Path(results).expanduser())
    if not str(results).strip() or path == "." or path.split(os.sep)[0] == "..":
        raise InputError(
            f"results cannot go to {str(results)!r}: relative paths are taken from the checkout; name a folder in it, or give "
            "an absolute path"
        )
    return from_root(path)


def open_workspace(results: str | Path) -> Workspace:
    """The workspace at `results`, as `results_folder` reads it, its folders created; InputError where it cannot be written.

    In a notebook an InputError shows as its one line from here on; every other error keeps its traceback.
    """
    _show_input_errors_plainly()
    space = Workspace(results_folder(results))
    try:
        for folder in (space.tables, space.figures, space.artifacts):
            folder.mkdir(parents=True, exist_ok=True)
        restore_all(space.artifacts)
        with atomic_path(space.artifacts / ".writable") as probe:
            probe.touch()
    except (OSError, InputError) as error:
        raise _unwritable(space, getattr(error, "strerror", None) or "not writable") from error
    return space


def open_notebook(names: dict[str, Any]) -> Workspace:
    """The workspace of a notebook whose globals are `names`, once every parameter among them is known and of its type.

    The types are the annotations of the parameters cell; a number stands as text afterwards where a text is declared.
    Nothing is written: what the notebook needs may be missing. Errors show as after `open_workspace`. InputError for a
    parameter that the notebook does not declare (papermill only warns of it), for one of another type, and as there.
    """
    _show_input_errors_plainly()
    kinds = names.get("__annotations__", {})
    if "RESULTS" not in kinds:
        raise InputError("run the cell of parameters first: it says where results go")
    given = {name: names[name] for name in kinds}
    if "ws" not in names:  # later on, names are also those of the notebook's cells and of its reader
        data = {
            name: value for name, value in names.items() if isinstance(value, str | float | int | list | dict | None)
        }
        given |= {name: value for name, value in data.items() if name.isupper() or name.upper() in kinds}
    names.update(typed(given, kinds))
    today()
    space = Workspace(results_folder(names["RESULTS"]))
    present = next(folder for folder in (space.root, *space.root.parents) if folder.exists())
    if not present.is_dir() or not os.access(present, os.W_OK | os.X_OK):
        raise _unwritable(space, f"{shown(present)} is {'not writable' if present.is_dir() else 'no folder'}")
    restore_all(space.artifacts)
    return space


def _unwritable(space: Workspace, reason: str) -> InputError:
    return InputError(
        f"cannot write to the results folder {shown(space.root)} ({reason}): "
        "choose another with --results or mend its permissions"
    )


def today() -> datetime.date:
    """The day of making, or that of SOURCE_DATE_EPOCH (reproducible-builds.org), which matplotlib reads too.

    InputError where that is no number of seconds.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        seconds = time.time() if epoch is None else int(epoch)
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC).date()
    except (ValueError, OverflowError, OSError) as error:
        raise InputError(f"SOURCE_DATE_EPOCH is {epoch!r}: give a number of seconds, or unset it") from error


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
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!results")
    return _git("rev-parse", "HEAD") + "+changes" * bool(changed) or "unknown"


def last_commit(path: str) -> str:
    """The commit that last touched a file of the checkout, with "+changes" where it differs since.

    "unknown" without git, for a file that no commit holds, and where a shallow clone was cut off before that commit.
    """
    touched = _git("log", "-1", "--format=%H", "--", path)
    cut = project_root() / _git("rev-parse", "--git-path", "shallow")
    if cut.is_file() and touched in cut.read_text(encoding="utf-8").split():
        touched = ""  # where a clone was cut off, a commit seems to hold every file for the first time
    return (touched or "unknown") + "+changes" * bool(_git("status", "--porcelain", "--", path))


def _git(*arguments: str) -> str:
    """What git prints about the checkout; "" without git, and where it refuses."""
    try:
        done = subprocess.run(["git", "-C", str(project_root()), *arguments], capture_output=True, text=True)
    except OSError:
        return ""
    return "" if done.returncode else done.stdout.strip()


def versions(*packages: str) -> dict[str, str]:
    """Installed versions by distribution name (all of the study's main packages by default)."""
    return {name: _version(name) for name in packages or PACKAGES}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # the same library, built without GPU kernels
        return importlib.metadata.version(f"{name}-cpu")


def version_line(*packages: str) -> str:
    """One line with the Python, dermstudy and package versions, for the end of a notebook."""
    parts = [f"Python {platform.python_version()}", f"dermstudy {importlib.metadata.version('dermstudy')}"]
    return " · ".join(parts + [f"{name} {version}" for name, version in versions(*packages).items()])
