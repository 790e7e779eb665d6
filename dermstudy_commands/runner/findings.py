"""What a run's notebooks found: the files that their last cells wrote, in one text; and those cells run again from tables."""

from __future__ import annotations

import ast

from dermstudy.files import InputError
from dermstudy.workspace import Workspace, shown
from dermstudy_commands.runner.profiles import notebooks, read_notebook
from dermstudy_commands.runner.provenance import known_manifest

DRAWN = "What is called real here is the phantom's: procedural drawings."
TAG = "finding"  # of the cell that computes a notebook's finding from tables


def found(space: Workspace) -> dict[str, str]:
    """What each file in findings/ says, by its name; InputError where there is none."""
    files = sorted((space.root / "findings").glob("*.md"))
    if not files:
        raise InputError(f"{shown(space.root)} holds no findings: run 'dermstudy run' first, or give --write")
    return {path.stem: path.read_text(encoding="utf-8").strip() for path in files}


def markdown(space: Workspace, headlines: bool = False) -> str:
    """Each finding below the name of its notebook; headlines: the first sentences alone, in a list."""
    if headlines:
        return "\n".join(f"- **{name}.** {text.partition(chr(10))[0]}" for name, text in found(space).items())
    return "\n\n".join([*drawn(space), *(f"### {name}\n\n{text}" for name, text in found(space).items())])


def drawn(space: Workspace) -> list[str]:
    """A sentence where the cohort of a run is the phantom; nothing elsewhere."""
    ran = known_manifest(space).get("notebooks", {}).get("00_dataset", {})
    return [DRAWN] * ("phantom" in ran.get("parameters", {}).get("DATA", ""))


def write(space: Workspace) -> None:
    """Run the finding's cell of each notebook that was executed in `space`, with the notebook's imports and nothing else.

    InputError where the folder lacks an executed notebook or a table.
    """
    present = [notebook for notebook in notebooks() if (space.root / notebook.name).is_file()]
    if not present:
        raise InputError(f"{shown(space.root)} holds no executed notebooks: run 'dermstudy run' first")
    for notebook in present:
        cells = [cell for cell in read_notebook(notebook).cells if cell.cell_type == "code"]
        nodes = [node for cell in cells for node in ast.parse(cell.source).body]
        imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {"ws": space}
        exec(compile(ast.Module(imports, []), notebook.name, "exec"), names)
        for cell in cells:
            if TAG in cell.metadata.get("tags", []):
                exec(compile(cell.source, notebook.name, "exec"), names)
