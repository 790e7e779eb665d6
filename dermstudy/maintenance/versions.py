"""What each version of glide-mini reached, both stages together: `python -m dermstudy.maintenance.versions`.

The sampler's comparison on validation lesions was made anew with the weights of each version; its chosen row stands in the
repository's history. Writes tables/versions.csv of the folder of weights, a row a version: what it had seen, how it was
sampled, KID, precision and recall. A clone without history cannot make it.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from dermstudy import figures, workspace
from dermstudy.diffusion import weights
from dermstudy.files import InputError, write_text
from dermstudy.maintenance import samplers
from dermstudy.maintenance.commands import answered

TABLE, FIGURE = "versions.csv", "versions"
SETTINGS = ("guidance_scale", "base_steps", "upsampler_steps", "n", "kid", "low", "high", "precision", "recall")
SEEN = {"base": "base_images", "upsampler": "upsampler_images"}


def versions(folder: Path) -> pd.DataFrame:
    """A row a commit that chose a sampler for new weights, oldest first: commit, SEEN, SETTINGS.

    InputError where the history is not there.
    """
    place = folder.resolve().relative_to(workspace.project_root()).as_posix()
    tables = [f"{place}/tables/{name}" for name in (samplers.TABLE, weights.SITTINGS)]
    rows = []
    for commit in _git("log", "--reverse", "--format=%H", "--", tables[0]).split():
        compared, sittings = (pd.read_csv(io.StringIO(_git("show", f"{commit}:{path}"))) for path in tables)
        chosen = compared[compared["chosen"]].iloc[-1]
        seen = sittings.groupby("model")["images"].max()
        rows.append(
            {"commit": commit[:12]} | {SEEN[name]: seen[name] for name in SEEN} | chosen[list(SETTINGS)].to_dict()
        )
    if not rows:
        raise InputError(f"no version of {place} in the history: fetch it whole (git fetch --unshallow)")
    return pd.DataFrame(rows)


def _git(*arguments: str) -> str:
    asked = subprocess.run(["git", *arguments], cwd=workspace.project_root(), capture_output=True, text=True)
    if asked.returncode:
        raise InputError(f"git {arguments[0]} failed: {asked.stderr.strip()}")
    return asked.stdout


def figure(table: pd.DataFrame) -> Figure:
    """KID and recall by the images that the base had seen (logarithmic), a dot a version; n beside it, for both move with n."""
    figures.use_style()
    drawn, axes = plt.subplots(1, 2, figsize=(figures.WIDTH, 2.6))
    seen = table[SEEN["base"]] / 1000
    axes[0].vlines(seen, table["low"], table["high"], color="#88CCEE", lw=3, label="middle 95 % of halves")
    for ax, measure, label in ((axes[0], "kid", "KID x 1,000"), (axes[1], "recall", "recall")):
        ax.plot(seen, table[measure], "o", color="#332288", label="a version, its own sampler")
        for x, y, n in zip(seen, table[measure], table["n"], strict=True):
            ax.annotate(f"n = {n:.0f}", (x, y), xytext=(5, 4), textcoords="offset points", fontsize=7)
        ax.set(
            xscale="log",
            xlabel="images that the base had seen (thousands)",
            ylabel=f"{label}, end to end",
            ylim=(0, None),
        )
    axes[0].legend()
    drawn.tight_layout()
    return drawn


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for anything the user can mend."""
    parser = argparse.ArgumentParser(
        prog="python -m dermstudy.maintenance.versions", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--weights", default="weights/glide-mini", help="default weights/glide-mini")
    return answered(lambda: _act(workspace.from_root(parser.parse_args(arguments).weights)))


def _act(folder: Path) -> None:
    table = versions(folder)
    write_text(folder / "tables" / TABLE, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    figures.save(figure(table), folder / "figures", FIGURE)
    print(table.to_string(index=False))


if __name__ == "__main__":
    sys.exit(main())
