"""What was asked and what was found: the paper, its rerun and the audit in one table, read from a run's tables.

Source: Shavlokhova et al., Table 1, sections 3.2 to 3.4, for the column of the paper.
"""

from __future__ import annotations

import pandas as pd

from dermstudy.classification.networks import PAPER, RESIDUAL
from dermstudy.classification.training_sets import CONTROLS, EVERY
from dermstudy.files import InputError
from dermstudy.published import paper
from dermstudy.workspace import Workspace, shown

COLUMNS = ("question", "the paper", "as published, rerun", "audited")
NONE = "–"


def table(space: Workspace) -> pd.DataFrame:
    """One row a question, columns COLUMNS, every cell a text; brackets hold 95 % intervals.

    InputError names a table that is missing.
    """
    rows = [*_images(space), *_reader(space), *_networks(space), *_taught(space)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def markdown(space: Workspace) -> str:
    """`table` in Markdown."""
    found = table(space)
    lines = [found.columns, ["---"] * len(found.columns), *found.to_numpy()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _read(space: Workspace, name: str) -> pd.DataFrame:
    path = space.tables / f"{name}.csv"
    if not path.is_file():
        raise InputError(f"{shown(path)} is missing: run notebooks 00 and 04 to 08 into {shown(space.root)} first")
    return pd.read_csv(path)


def _images(space: Workspace):
    leak = _read(space, "leak").query("entity == 'all'").set_index("protocol")["share"]
    yield (
        "Test images with an image of their lesion in training",
        NONE,
        f"{leak['as published']:.0%}",
        f"{leak['audited']:.0%}",
    )
    rerun = _read(space, "quality_as_published").set_index("entity")
    sizes = rerun["n"].drop("overall")
    each = f"n = {sizes.min()} each" if sizes.nunique() == 1 else f"n = {sizes.min()} to {sizes.max()}"
    audited = _read(space, "quality_audited").query("entity == 'overall'").set_index("metric")
    fid, kid = audited.loc["fid"], audited.loc["kid"]
    yield (
        "FID of synthetic images (falls with n, so columns do not compare)",
        f"{paper.table_1().loc['overall', 'fid']:.0f}, mean of seven",
        f"{rerun.loc['overall', 'fid']:.0f}, mean of seven, {each}",
        f"{fid['value']:.0f} ({fid['low']:.0f} to {fid['high']:.0f}), pooled, n = {fid['n']:.0f}; "
        f"real images: {fid['floor']:.0f}",
    )
    yield (
        "KID (× 1,000), all entities",
        NONE,
        NONE,
        f"{kid['value']:.0f} ({kid['low']:.0f} to {kid['high']:.0f}); real images: {kid['floor']:z.0f}",
    )
    named = _read(space, "quality_fidelity").set_index("entity").loc["overall"]
    yield (
        "Images in which a network names the entity asked for",
        NONE,
        NONE,
        f"{named['synthetic']:.0%}; real images: {named['real']:.0%}",
    )


def _reader(space: Workspace):
    told = _read(space, "reader_intervals").set_index("what").loc["source, all images"]
    printed = {(place, what): value for what, place, value in paper.READER_FIGURES}
    yield (
        "Reader: synthetic or original?",
        f"{printed['AI against original', 'accuracy']:.2f} right",
        f"{told['right']:.0f} of {told['of']:.0f}, {told['share']:.3f}",
        f"{told['share']:.2f} ({told['low']:.2f} to {told['high']:.2f})",
    )
    entity = _read(space, "reader_audit").iloc[0]
    difference = printed["entities, AI images", "accuracy"] - printed["entities, original images", "accuracy"]
    yield (
        "Reader: entities of synthetic less of original images",
        f"{difference:+.2f}",
        f"{entity['difference']:+.3f}",
        f"{entity['difference']:+.2f} (p = {entity['p_value']:.0e})",
    )


def _networks(space: Workspace):
    summary = _read(space, "ablation_summary")
    shares = summary.set_index(["model", "protocol", "arm", "metric"])
    kept = shares.loc[PAPER]
    trained = {"original": "originals", "synthetic": "synthetic images", "combined": "both"}
    for arm, said in trained.items():
        for metric in ("accuracy", "balanced accuracy"):
            rerun, audited = kept.loc["as published", arm, metric], kept.loc["audited", arm, metric]
            yield (
                f"The paper's network on {said}: {metric}",
                f"{rerun['paper']:.2f}",
                _share(rerun, "mean"),
                f"{_share(audited, 'mean')}; always nevus: {audited['always_nevus']:.2f}",
            )
    for model, said in ((PAPER, "The paper's"), (RESIDUAL, "A residual")):
        for metric in ("accuracy", "balanced accuracy"):
            if (model, "audited", EVERY, metric) in shares.index:
                row = shares.loc[model, "audited", EVERY, metric]
                printed = f"{kept.loc['as published', 'original', metric]['paper']:.2f}"
                floor = f"always nevus: {row['always_nevus']:.2f}"
                yield f"{said} network on {EVERY}: {metric}", printed, NONE, f"{_share(row, 'mean')}; {floor}"
    both = [kept.loc["as published", arm, "balanced accuracy"] for arm in ("combined", "original")]
    primary = _read(space, "ablation_primary").iloc[0]
    yield (
        "**Gain of balanced accuracy from synthetic images**",
        f"{both[0]['paper'] - both[1]['paper']:+.2f}",
        f"{both[0]['mean'] - both[1]['mean']:+.2f}",
        f"**{_change(primary)}**",
    )
    models = _read(space, "ablation_models").set_index(["model", "comparison"])
    if (RESIDUAL, "combined minus original") in models.index:
        yield f"The same, {RESIDUAL}", NONE, NONE, _change(models.loc[RESIDUAL, "combined minus original"])
    controls = _read(space, "ablation_controls").set_index("arm minus original")
    controls = controls[controls.index.isin(CONTROLS)]
    if len(controls):
        best = controls["difference"].idxmax()
        right = kept.loc["audited", best, "accuracy"]["mean"]
        said = f"{_change(controls.loc[best])}; accuracy: {right:.2f}"
        yield f"Gain from {best} instead, without a generator", NONE, NONE, said
        if (RESIDUAL, f"{best} minus original") in models.index:
            right = shares.loc[RESIDUAL, "audited", best, "accuracy"]["mean"]
            said = f"{_change(models.loc[RESIDUAL, f'{best} minus original'])}; accuracy: {right:.2f}"
            yield f"Gain from {best} instead, {RESIDUAL}", NONE, NONE, said
        for model in (PAPER, RESIDUAL):
            if (model, f"combined minus {best}") in models.index:
                beyond = _change(models.loc[model, f"combined minus {best}"])
                yield f"Synthetic images less {best}, {model}", NONE, NONE, beyond
    said = _change(models.loc[PAPER, f"{EVERY} minus original"])
    yield "Gain from the rest of the real images instead", NONE, NONE, said
    for step in _read(space, "classifier_ladder").iloc[1:].to_dict("records"):
        yield f"From as published to audited, one change a row: {step['step']}", NONE, NONE, _change(pd.Series(step))


def _taught(space: Workspace):
    for place, row in enumerate(_read(space, "inversion_downstream").to_dict("records")):
        question = f"Two entities taught to the generator, told apart by a network trained on: {row['training']}"
        gain = f"; gain {row['gain']:+.3f} ({row['gain_low']:+.3f} to {row['gain_high']:+.3f})"
        yield question, NONE, NONE, f"AUC {_share(row, 'auc')}{gain if place else ''}"


def _share(row, value: str) -> str:
    return f"{row[value]:.2f} ({row['low']:.2f} to {row['high']:.2f})"


def _change(row: pd.Series) -> str:
    return f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
