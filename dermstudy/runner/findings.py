"""What was asked and what was found: the paper, its rerun and the audit in one table, read from a run's tables.

Source: Shavlokhova et al., Table 1, sections 3.2 to 3.4, for the column of the paper.
"""

from __future__ import annotations

import pandas as pd

from dermstudy.classification import protocol
from dermstudy.classification.training_sets import IN_TRIAL
from dermstudy.evaluation import fidelity
from dermstudy.files import InputError
from dermstudy.published import paper
from dermstudy.workspace import Workspace, shown

COLUMNS = ("question", "the paper", "as published, rerun", "audited (95 % interval)", "interval over")
NONE = "–"
ROLES = {
    protocol.CONTROL: "Would the trial see what more real images do? ({comparison})",
    protocol.FAMILY: "Of the protocol's family: {comparison}?",
    protocol.SENSITIVITY: "Sensitivity: {comparison}?",
}
LESIONS = "test lesions and seeds"


def table(space: Workspace, headlines: bool = False) -> pd.DataFrame:
    """One row a question, columns COLUMNS, every cell a text; what an interval in brackets is over stands in the last.

    headlines: the few rows that stand for the whole, for a first page. InputError names a table that is missing.
    """
    rows = [*_images(space), *_reader(space), *_networks(space), *_taught(space)]
    kept = [row for row, chosen in rows if chosen or not headlines]
    return pd.DataFrame(kept, columns=list(COLUMNS))


def markdown(space: Workspace, headlines: bool = False) -> str:
    """`table` in Markdown."""
    found = table(space, headlines)
    lines = [found.columns, ["---"] * len(found.columns), *found.to_numpy()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _read(space: Workspace, name: str) -> pd.DataFrame:
    path = space.tables / f"{name}.csv"
    if not path.is_file():
        raise InputError(f"{shown(path)} is missing: run notebooks 00 and 04 to 08 into {shown(space.root)} first")
    return pd.read_csv(path)


def _images(space: Workspace):
    leak = _read(space, "leak").query("entity == 'all'").set_index("protocol")["share"]
    question = "How many test images have an image of their lesion in training?"
    yield (question, NONE, f"{leak['as published']:.0%}", f"{leak['audited']:.0%}", NONE), True
    rerun = _read(space, "quality_as_published").set_index("entity")
    sizes = rerun["n"].drop("overall")
    each = f"n = {sizes.min()} each" if sizes.nunique() == 1 else f"n = {sizes.min()} to {sizes.max()}"
    audited = _read(space, "quality_audited").query("entity == 'overall'").set_index("metric")
    fid, kid, recall = (audited.loc[name] for name in ("fid", "kid", "recall"))
    subsamples = "subsamples of images"
    yield (
        (
            "FID of synthetic images (falls with n, so columns do not compare)",
            f"{paper.table_1().loc['overall', 'fid']:.0f}, mean of seven",
            f"{rerun.loc['overall', 'fid']:.0f}, mean of seven, {each}",
            f"{_plain(fid)}, pooled, n = {fid['n']:.0f}; real images: {fid['floor']:.0f}",
            subsamples,
        ),
        False,
    )
    said = f"{_plain(kid)}; real images: {kid['floor']:z.0f}"
    yield ("How far are synthetic images from real ones? KID × 1,000", NONE, NONE, said, subsamples), True
    said = f"{recall['value']:.2f} ({recall['low']:.2f} to {recall['high']:.2f}); real images: {recall['floor']:.2f}"
    yield ("How much of the real variety do they hold? Recall", NONE, NONE, said, subsamples), True
    named = _read(space, "quality_fidelity")
    if "network" in named:
        named = named[named["network"] == fidelity.INDEPENDENT]
    named = named.set_index("entity").loc["overall"]
    said = f"{named['synthetic']:.0%}; real images: {named['real']:.0%}"
    yield ("In how many does a network name the entity asked for?", NONE, NONE, said, NONE), True


def _reader(space: Workspace):
    told = _read(space, "reader_intervals").set_index("what").loc["source, all images"]
    printed = {(place, what): value for what, place, value in paper.READER_FIGURES}
    yield (
        (
            "The paper's reader: synthetic or original?",
            f"{printed['AI against original', 'accuracy']:.2f} right",
            f"{told['right']:.0f} of {told['of']:.0f}, {told['share']:.3f}",
            f"{told['share']:.2f} ({told['low']:.2f} to {told['high']:.2f})",
            "images (Wilson)",
        ),
        True,
    )
    entity = _read(space, "reader_audit").iloc[0]
    difference = printed["entities, AI images", "accuracy"] - printed["entities, original images", "accuracy"]
    yield (
        (
            "The paper's reader: entities of synthetic less of original images",
            f"{difference:+.2f}",
            f"{entity['difference']:+.3f}",
            f"{entity['difference']:+.2f} (p = {entity['p_value']:.0e})",
            NONE,
        ),
        False,
    )


def _networks(space: Workspace):
    printed = [paper.by_class(name)["recall"].mean() for name in ("combined", "original")]
    gain, question = f"{printed[0] - printed[1]:+.2f} balanced accuracy", "**Does adding synthetic images help?**"
    if not (space.tables / "trial.csv").is_file():
        yield (question, gain, NONE, "not answered yet: the trial of docs/PROTOCOL.md waits for its run", NONE), True
        return
    summary = _read(space, "ablation_summary").set_index(["protocol", "training_set", "metric"])
    said = {"original": "originals", "synthetic": "synthetic images", "combined": "both"}
    for name, words in said.items() if len(summary) else ():
        for metric in ("accuracy", "balanced accuracy"):
            rerun, audited = summary.loc["as published", name, metric], NONE
            if ("audited", IN_TRIAL[name], metric) in summary.index:
                own = summary.loc["audited", IN_TRIAL[name], metric]
                audited = f"{_share(own, 'mean')}; always nevus: {own['always_nevus']:.2f}"
            asked = f"The paper's network on {words}: {metric}"
            yield (asked, f"{rerun['paper']:.2f}", _share(rerun, "mean"), audited, LESIONS), name == "combined"
    rerun = NONE  # the paper's network did not run
    if len(summary):
        both = [summary.loc["as published", name, "balanced accuracy"]["mean"] for name in ("combined", "original")]
        rerun = f"{both[0] - both[1]:+.2f}"
    trial = _read(space, "trial")
    primary = trial[trial["role"] == protocol.PRIMARY].iloc[0]
    audited = f"**{primary['verdict']}**: macro AUC {_change(primary)}"
    yield (question, gain, rerun, audited, LESIONS), True
    for role in (protocol.CONTROL, protocol.FAMILY, protocol.SENSITIVITY):
        for _, row in trial[trial["role"] == role].iterrows():
            asked = ROLES[role].format(comparison=row["comparison"])
            said = f"{row['verdict']}: {_change(row)}" if row["seeds"] else "not run yet"
            yield (asked, NONE, NONE, said, LESIONS if row["seeds"] else NONE), role == protocol.CONTROL
    for step in _read(space, "classifier_ladder").iloc[1:].to_dict("records"):
        asked = f"From as published to audited, one change a row: {step['step']}"
        yield (asked, NONE, NONE, f"balanced accuracy {_change(pd.Series(step))}", LESIONS), False


def _taught(space: Workspace):
    for place, row in enumerate(_read(space, "inversion_downstream").to_dict("records")):
        question = (
            f"Two entities taught to the generator: are they told apart by a network trained on {row['training']}?"
        )
        gain = f"{row['gain']:+.3f} ({row['gain_low']:+.3f} to {row['gain_high']:+.3f}) AUC, to {row['auc']:.2f}"
        said = gain if place else f"AUC {_share(row, 'auc')}"
        yield (question, NONE, NONE, said, LESIONS), place == 1


def _plain(row) -> str:
    return f"{row['value']:.0f} ({row['low']:.0f} to {row['high']:.0f})"


def _share(row, value: str) -> str:
    return f"{row[value]:.2f} ({row['low']:.2f} to {row['high']:.2f})"


def _change(row: pd.Series) -> str:
    return f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
