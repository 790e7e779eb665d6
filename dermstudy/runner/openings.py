"""How an executed notebook opens: its finding in a sentence, read from its own tables, and the figure that shows it.

The sentence is put into the executed notebook as a cell of its own, so that two profiles say what each of them found.
"""

from __future__ import annotations

from collections.abc import Callable

import nbformat
import pandas as pd

from dermstudy.classification import trial
from dermstudy.entities import NAMES
from dermstudy.evaluation import cascade, fidelity, verdicts
from dermstudy.readers import workbook
from dermstudy.workspace import Workspace

TAG = "finding"  # of the cell
BASELINE = "unadapted"  # the trial that 08 and 09 compare with
FIGURES = {  # the first that is there
    "00_dataset": ("split",),
    "01_finetune": ("finetune_loss", "finetune_hours"),
    "02_upsample": ("upsample_loss", "upsample_hours"),
    "03_sample": ("synthetic_grid",),
    "04_metrics": ("quality_floor",),
    "05_dermatologist_study": ("reader_intervals",),
    "06_cnn_classifier": ("classifier_summary",),
    "07_ablation": ("trial",),
    "08_textual_inversion": ("inversion",),
    "09_which_parts": ("which_parts",),
}


def sentence(stem: str, space: Workspace) -> str:
    """The finding of notebook `stem` from the tables in `space`; "" where they are older than this sentence, or missing."""
    try:
        return verdicts.signed(SENTENCES[stem](lambda name: pd.read_csv(space.tables / f"{name}.csv")))
    except (OSError, KeyError, IndexError, ValueError, AttributeError):
        return ""


def opened(notebook, stem: str, space: Workspace):
    """The executed notebook with its finding after the first cell, in place of an earlier one."""
    notebook.cells = [cell for cell in notebook.cells if TAG not in cell.metadata.get("tags", [])]
    said = sentence(stem, space)
    if said:
        drawn = space.pictures()
        first = next((drawn[name].name for name in FIGURES[stem] if name in drawn), "")
        picture = f"\n\n![{said}](figures/{first})" if first else ""
        cell = nbformat.v4.new_markdown_cell(f"**Finding.** {said}{picture}", metadata={"tags": [TAG]})
        cell.id = f"finding-{stem[:2]}"
        notebook.cells.insert(1, cell)
    return notebook


Read = Callable[[str], pd.DataFrame]


def _dataset(read: Read) -> str:
    leak = read("leak").set_index(["protocol", "entity"])
    published, audited = leak.loc["as published", "all"], leak.loc["audited", "all"]
    late = ", by pairs of the same skin that were found after that split was made" if audited["leaked"] else ""
    return (
        f"Dealt at random as published, {published['leaked']:,.0f} of {published['test_images']:,.0f} test images "
        f"({published['share']:.0%}) have an image of their own lesion in training; dealt by lesion, {audited['leaked']:,.0f} of "
        f"{audited['test_images']:,.0f}{late}."
    )


def _finetune(read: Read) -> str:
    return "The base model's " + _loss(read("finetune_log"))


def _upsample(read: Read) -> str:
    rows = read("upsample_against_bicubic").set_index("enlargement")
    own, other = rows.loc["upsampler"], rows.loc["bicubic"]
    error = "lower" if own["mse"] < other["mse"] else "higher"
    alike = "higher" if own["ssim"] > other["ssim"] else "lower"
    few, counted = "a few held-out real images", ""
    if "n" in rows:
        few = f"{own['n']:.0f} held-out real images"
        lower, higher = (f"{own[name]:.0f}" for name in ("lower_error_in", "higher_ssim_in"))
        counted = f"; the error is lower in {lower} of them, the similarity higher in {higher}"
    return (
        f"The upsampler's {_loss(read('upsample_log'))[:-1]}. On {few}, beside bicubic enlargement, its pixel error is {error} "
        f"(PSNR {own['psnr']:.1f} and {other['psnr']:.1f} dB) and its structural similarity {alike} ({own['ssim']:.3f} and "
        f"{other['ssim']:.3f}){counted}. Neither says much of texture: see the stages in 04."
    )


def _loss(log: pd.DataFrame) -> str:
    first, best = log.iloc[0], log.loc[log["validation_loss"].idxmin()]
    if log["step"].max() == 0:
        return f"weights are taken as they came; their loss on held-out lesions is {best['validation_loss']:.4f}."
    before = "before training" if first["step"] == 0 else f"after {first['step']:.0f}"
    if best["step"] == first["step"]:
        return f"loss on held-out lesions does not fall below its {best['validation_loss']:.4f} {before}."
    return (
        f"loss on held-out lesions is {best['validation_loss']:.4f} at its lowest, after {best['step']:.0f} of "
        f"{log['step'].max():.0f} steps, beside {first['validation_loss']:.4f} {before}."
    )


def _sample(read: Read) -> str:
    made = read("synthetic")["synthetic_images"]
    each = f"{made.min()} of each entity" if made.nunique() == 1 else f"{made.min():,} to {made.max():,} an entity"
    return f"{made.sum():,} synthetic images, {each}, each from the caption of a real one and a seed of its own."


def _metrics(read: Read) -> str:
    overall = read("quality_audited").query("entity == 'overall'").set_index("metric")
    kid, recall = overall.loc["kid"], overall.loc["recall"]
    named = read("quality_fidelity").set_index(["network", "entity"]).loc[fidelity.INDEPENDENT, "overall"]
    second = read("quality_encoders").query("entity == 'overall'").iloc[-1]
    stages = read("quality_cascade").set_index(["input", "enlarged_by"])["kid"]
    lost = stages[cascade.REAL, cascade.UPSAMPLER]
    return (
        f"Synthetic images lie at KID {kid['value']:.0f} from real test lesions (n = {kid['n']:.0f}; middle 95 % of subsamples "
        f"{kid['low']:.0f} to {kid['high']:.0f}), real training lesions at {kid['floor']:z.0f} (by {second['encoder']}, on a "
        f"scale of its own, {second['kid']:.0f} and {second['floor']:z.0f}); they hold {recall['value']:.0%} of the real variety "
        f"where real ones hold {recall['floor']:.0%}; a network that had no part in choosing the generator, fitted on its "
        f"training lesions, names {named['synthetic']:.0%} of them as asked and {named['real']:.0%} of real ones; the upsampler "
        f"alone, fed with real images, is at {lost:.0f}."
    )


def _reader(read: Read) -> str:
    told = read("reader_intervals").set_index("what")
    source, made, real = (
        told.loc[name] for name in ("source, all images", "entity, AI images", "entity, original images")
    )
    own = "answers" in told and (told["answers"] != workbook.RECONSTRUCTION).any()
    reader = "The workbook's readers" if own else "The paper's reader"
    return (
        f"{reader} told synthetic from original in {source['right']:.0f} of {source['of']:.0f} images ({source['share']:.2f}, "
        f"Wilson's 95 % interval {source['low']:.2f} to {source['high']:.2f}), and named the entity of {made['share']:.0%} of "
        f"the synthetic ones and of {real['share']:.0%} of the originals."
    )


def _classifier(read: Read) -> str:
    rows = read("classifier_summary").query("metric == 'balanced accuracy'").set_index("protocol")
    published, audited = (
        f"{rows.loc[name, 'mean']:.2f} ({rows.loc[name, 'low']:.2f} to {rows.loc[name, 'high']:.2f})"
        for name in ("as published", "audited")
    )
    floor = rows.loc["audited", "always_nevus"]
    return (
        f"A small network of the paper's form reaches a balanced accuracy of {published} as published and of {audited} audited, "
        f"with 95 % intervals over test lesions and seeds; always answering nevus gives {floor:.2f}."
    )


def _trial(read: Read) -> str:
    return trial.answer(read("trial"))


def _inversion(read: Read) -> str:
    rows = read("inversion").set_index("trial")
    given = [name for name in rows.index if name == BASELINE or name.startswith("all weights")]
    return "Of learned vectors " + _taught(rows, rows.drop(index=given), read("inversion_by_entity"))


def _parts(read: Read) -> str:
    rows = read("which_parts").set_index("trial")
    return "Of the ways to train " + _taught(rows, rows.drop(index=BASELINE), read("which_parts_by_entity"))


def _taught(rows: pd.DataFrame, trials: pd.DataFrame, by_entity: pd.DataFrame) -> str:
    """Which of `trials` are shown to help, and the figures of the one with the largest gain among them, or among all."""
    best = next(iter(verdicts.helped(trials)), trials["gain"].idxmax())
    row, own = rows.loc[best], by_entity[by_entity["trial"] == best]
    named = " and ".join(f"{one.named:.0f} of {one.n:.0f} of {NAMES[one.entity]}" for one in own.itertuples())
    return (
        f"{verdicts.nearest(trials)} (gains of KID, with the middle 95 % over halves of the images). "
        f"{verdicts.plain(best)}: KID {row['kid']:.0f} beside {rows.loc[BASELINE, 'kid']:.0f} of the unadapted model and a floor "
        f"of {row['floor']:z.0f}; a network names as asked {named}."
    )


SENTENCES: dict[str, Callable[[Read], str]] = {
    "00_dataset": _dataset,
    "01_finetune": _finetune,
    "02_upsample": _upsample,
    "03_sample": _sample,
    "04_metrics": _metrics,
    "05_dermatologist_study": _reader,
    "06_cnn_classifier": _classifier,
    "07_ablation": _trial,
    "08_textual_inversion": _inversion,
    "09_which_parts": _parts,
}
