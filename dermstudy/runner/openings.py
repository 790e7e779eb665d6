"""How an executed notebook opens: its finding in a sentence, read from its own tables, and the figure that shows it.

The sentence is put into the executed notebook as a cell of its own, so that two profiles say what each of them found.
"""

from __future__ import annotations

from collections.abc import Callable

import nbformat
import pandas as pd

from dermstudy.classification import protocol, training_sets, trial
from dermstudy.entities import NAMES
from dermstudy.evaluation import cascade, fidelity, verdicts
from dermstudy.readers import workbook
from dermstudy.runner import provenance
from dermstudy.workspace import Workspace

TAG = "finding"  # of the cell
BASELINE = "unadapted"  # the trial that 08 and 09 compare with
DRAWN = " What is called real here is the phantom's: procedural drawings."
FIGURES = {  # the first that is there
    "00_dataset": ("split",),
    "01_finetune": ("finetune_loss", "finetune_hours"),
    "02_upsample": ("upsample_differences",),
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
        told, _, _ = said.partition(". ")  # the rest stands above the picture
        picture = f"\n\n![{told.rstrip('.')}.](figures/{first})" if first else ""
        drawn_words = DRAWN if _on_phantom(space, stem) else ""
        cell = nbformat.v4.new_markdown_cell(f"**Finding.** {said}{drawn_words}{picture}", metadata={"tags": [TAG]})
        cell.id = f"finding-{stem[:2]}"
        notebook.cells.insert(1, cell)
    return notebook


def _on_phantom(space: Workspace, stem: str) -> bool:
    """Whether what `stem` found is of the phantom; 05's reader is the paper's, and 00 stands before any manifest."""
    known = provenance.read(space.root / "manifest.json").get("notebooks", {}).get("00_dataset", {})
    return stem[:2] not in ("00", "05") and known.get("parameters", {}).get("DATA") == "phantom"


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
    log = read("finetune_log")
    if log["step"].max() == 0:
        return (
            "Nothing is trained here: the weights are taken as they came, and the figure shows how far their own training "
            f"brought them. Their loss on held-out lesions is {log['validation_loss'].iloc[0]:.4f}."
        )
    return "The base model's " + _loss(log)


def _upsample(read: Read) -> str:
    rows = read("upsample_against_bicubic").set_index("enlargement")
    gained = read("upsample_differences").set_index("measure")
    own, other = rows.loc["upsampler"], rows.loc["bicubic"]
    log = read("upsample_log")
    trained = "" if log["step"].max() == 0 else f" Its {_loss(log)}"
    signal, alike = _against(gained.loc["psnr"], 2, " dB"), _against(gained.loc["ssim"], 3)
    return (
        f"On {own['n']:.0f} real images, each of a held-out lesion, the upsampler's PSNR is {signal} than bicubic enlargement's "
        f"and its structural similarity {alike} (95 %, t, over images). Of the originals' fine detail it has "
        f"{own['detail']:.0%}, bicubic {other['detail']:.0%}: whether it is the right detail none of these says, and 04 follows "
        f"the stages by KID.{trained}"
    )


def _against(row: pd.Series, digits: int, unit: str = "") -> str:
    """A difference as "0.15 dB lower (-0.20 to -0.10)", or that the interval holds none."""
    span = f"({row['low']:+.{digits}f} to {row['high']:+.{digits}f})"
    if not (row["low"] > 0 or row["high"] < 0):
        return f"neither higher nor lower {span}"
    return f"{abs(row['difference']):.{digits}f}{unit} {'higher' if row['low'] > 0 else 'lower'} {span}"


def _loss(log: pd.DataFrame) -> str:
    first, best = log.iloc[0], log.loc[log["validation_loss"].idxmin()]
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
    return (
        f"The sheet shows the first of {made.sum():,} synthetic images, nothing picked: {each}, each from the caption of a real "
        "one and a seed of its own. What they are worth is measured in 04."
    )


def _metrics(read: Read) -> str:
    overall = read("quality_audited").query("entity == 'overall'").set_index("metric")
    kid, recall = overall.loc["kid"], overall.loc["recall"]
    named = read("quality_fidelity").set_index(["network", "entity"]).loc[fidelity.INDEPENDENT, "overall"]
    second = read("quality_encoders").query("entity == 'overall'").iloc[-1]
    lost = read("quality_cascade").set_index(["input", "enlarged_by"]).loc[(cascade.REAL, cascade.UPSAMPLER)]
    return (
        f"Synthetic images lie at KID {kid['value']:.0f} from real test lesions (n = {kid['n']:.0f}; middle 95 % of subsamples "
        f"{kid['low']:.0f} to {kid['high']:.0f}), real training lesions at {kid['floor']:z.0f}. By {second['encoder']}, on a "
        f"scale of its own, the two are {second['kid']:.0f} and {second['floor']:z.0f}. Synthetic images hold "
        f"{recall['value']:.0%} of the real variety, real ones {recall['floor']:.0%} (by {second['encoder']} "
        f"{second['recall']:.0%} and {second['recall_floor']:.0%}). A network that had no part in choosing the "
        f"generator, fitted on real images of its training lesions, names {named['synthetic']:.0%} of them as asked "
        f"(n = {named['n']:,.0f}), and {named['real']:.0%} of real ones rightly (n = {named['n_real']:,.0f}). The "
        f"upsampler alone, fed with real images, is at KID {lost['kid']:.0f} (n = {lost['n']:.0f}; middle 95 % of halves "
        f"{lost['low']:.0f} to {lost['high']:.0f})."
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
    seeds = read("classifier_ladder").query("network == @protocol.KERAS")["seeds"].max()
    over = f"test lesions and {seeds} seeds" if seeds > 1 else "test lesions"
    return (
        f"A small network of the paper's form reaches a balanced accuracy of {published} as published and of {audited} audited, "
        f"with 95 % intervals over {over}; always answering nevus gives {floor:.2f}.{_steps(read)}"
    )


def _steps(read: Read) -> str:
    """Which steps of the ladder move what, by the network with the most seeds; "" where no interval is there."""
    table = read("classifier_ladder").dropna(subset="low")
    table = table[table["step"].isin(training_sets.LADDER)]
    if table.empty:
        return ""
    network = table.groupby("network", sort=False)["seeds"].max().idxmax()
    own = table[table["network"] == network]
    name = "the small network" if network == protocol.KERAS else f"the head on {network}"
    seeds = own["seeds"].max()
    said = f" Step by step from one protocol to the other ({name}, {seeds} seed{'' if seeds == 1 else 's'}), "
    return said + "; ".join(_moved(measure, steps) for measure, steps in own.groupby("measure", sort=False)) + "."


def _moved(measure: str, steps: pd.DataFrame) -> str:
    clear = (steps["low"] > 0) | (steps["high"] < 0)
    moved = [
        f"{row.step} ({row.difference:+.3f}, {protocol.bound(row.low)} to {protocol.bound(row.high)})"
        for row in steps[clear].itertuples()
    ]
    left = list(steps.loc[~clear, "step"])
    parts = [f"what moves {measure}: {verdicts.listed(moved)}"] * bool(moved)
    parts += [f"what is not shown to move {'it' if moved else measure}: {verdicts.listed(left)}"] * bool(left)
    return "; ".join(parts)


def _trial(read: Read) -> str:
    table = read("trial")
    controls = table[(table["role"] == protocol.CONTROL) & (table["seeds"] > 0)]
    missed = [trial.verdict_sentence(row) for _, row in controls.iterrows() if row["verdict"] != protocol.HELPS]
    return " ".join([trial.answer(table), *missed])


def _inversion(read: Read) -> str:
    rows = read("inversion").set_index("trial")
    given = [name for name in rows.index if name == BASELINE or name.startswith("all weights")]
    both = read("inversion_downstream").iloc[1]
    taught = _taught(rows, rows.drop(index=given), read("inversion_by_entity"), "trials of learned vectors")
    return (
        f"{taught} A classifier of the two entities "
        f"that has synthetic images beside real ones changes its AUC by {both['gain']:+.3f} (95 % interval "
        f"{both['gain_low']:+.3f} to {both['gain_high']:+.3f}); exploratory."
    )


def _parts(read: Read) -> str:
    rows = read("which_parts").set_index("trial")
    return _taught(rows, rows.drop(index=BASELINE), read("which_parts_by_entity"), "ways to train")


def _taught(rows: pd.DataFrame, trials: pd.DataFrame, by_entity: pd.DataFrame, what: str) -> str:
    """Which of `trials` are shown to help, how many harm, and the figures of the best of them, or of all."""
    shown = verdicts.helped(trials)
    best = next(iter(shown), trials["gain"].idxmax())
    row, own = rows.loc[best], by_entity[by_entity["trial"] == best]
    name = verdicts.plain(best)
    bounds = f"middle 95 % over halves of the images {row['gain_low']:z.0f} to {row['gain_high']:z.0f}"
    figures = f"{name} (gain of KID {row['gain']:z.0f}, {bounds})"
    which = f"{len(shown)} of {len(trials)} {what} {'are' if len(shown) > 1 else 'is'} shown to bring images nearer to real ones"
    leads = f"the best is {figures}" if shown else f"{verdicts.superlative(trials)} is that of {figures}"
    farther = int((trials["gain_high"] < 0).sum())
    lost = (
        f"; {'all' if farther == len(trials) else farther} are shown to lead farther from them" if farther > 1 else ""
    )
    lost = "; one is shown to lead farther from them" if farther == 1 else lost
    named = " and ".join(f"{one.named:.0f} of {one.n:.0f} of {NAMES[one.entity]}" for one in own.itertuples())
    before = by_entity[by_entity["trial"] == BASELINE].set_index("entity")["named"]
    asked = " and ".join(f"{before[code]:.0f}" for code in own["entity"])
    return (
        f"{which if shown else which.replace(f'{len(shown)} of', 'None of the')}{lost}. "
        f"{leads[0].upper()}{leads[1:]}: KID {row['kid']:.0f} beside {rows.loc[BASELINE, 'kid']:.0f} of the unadapted model and "
        f"a floor of {row['floor']:z.0f}; a network names as asked {named} (unadapted: {asked}). Each is one training; "
        "intervals are not adjusted for their number."
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
