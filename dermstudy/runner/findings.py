"""What was asked and what was found: the paper, its rerun and the audit in one table, read from a run's tables.

Source: Shavlokhova et al., Table 1, sections 3.2 to 3.4, for the column of the paper.
"""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

from dermstudy.classification import protocol, secondary
from dermstudy.classification.training_sets import IN_TRIAL, LADDER
from dermstudy.entities import NAMES
from dermstudy.evaluation import fidelity
from dermstudy.evaluation.verdicts import signed
from dermstudy.files import InputError
from dermstudy.published import paper
from dermstudy.workspace import Workspace, project_root, shown

COLUMNS = ("question", "the paper", "as published, rerun", "audited", "interval in brackets")
FIRST_RUN = "docs/protocol/first_run.csv"  # the trial of an earlier generator, which stays reported
OTHERS = "other_generators"  # a table that maintenance.other_generators writes
NONE = "–"
WAITS = "not run yet"
UNTAUGHT = "unadapted"  # the trial of 08 and 09 that learned nothing
ROLES = {
    protocol.CONTROL: "Would the trial see what more real images do? ({comparison})",
    protocol.FAMILY: "Of the protocol's family: {comparison}?",
    protocol.SENSITIVITY: "Sensitivity: {comparison}?",
}
# Beside the answer, on a first page: what could have been another answer.
BESIDE = ("combined against longer training", protocol.SECOND_GENERATOR, protocol.TUNED_PRIMARY)
NOTES = {
    "combined against longer training": " (the small network)",
    "30 % subset with and without its own generator": " (whose upsampler and guide are borrowed)",
}
MOVED = "Equally many synthetic images of each entity added: what becomes of balanced accuracy by argmax?"
NEED_NONE = "And by what needs no generator?"
OWN_TESTS = "each set on a test of its own: not comparable"
SMALL_NETWORK = "the small network"  # the protocol's Keras CNN, for a reader
LESIONS = "95 %, t, over test lesions and seeds"
DRAWN = "95 %, percentiles, over test lesions and seeds"
SUBSAMPLES = "middle 95 % of subsamples of images"
NAMED = "95 %, percentiles, over images and test lesions"
WILSON = "95 %, Wilson's, over images"


def table(space: Workspace, headlines: bool = False) -> pd.DataFrame:
    """One row a question, columns COLUMNS, every cell a text; of which kind an interval in brackets is stands in the last.

    headlines: the few rows that stand for the whole, for a first page. InputError names a table that is missing.
    """
    rows = [*_images(space), *_reader(space), *_networks(space), *_taught(space)]
    kept = [row for row, chosen in rows if chosen or not headlines]
    return pd.DataFrame(kept, columns=list(COLUMNS)).map(signed)


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
    leak = _read(space, "leak").query("entity == 'all'").set_index("protocol")
    question = "How many test images have an image of their lesion in training?"
    yield (question, NONE, *(_count(leak.loc[name]) for name in ("as published", "audited")), NONE), True
    rerun = _read(space, "quality_as_published").set_index("entity")
    sizes = rerun["n"].drop("overall")
    each = f"n = {sizes.min()} each" if sizes.nunique() == 1 else f"n = {sizes.min()} to {sizes.max()}"
    theirs = rerun["paper_n"].drop("overall")
    alike = pd.notna(rerun.loc["overall", "paper_fid"])
    own = f"{rerun.loc['overall', 'fid']:.0f}, mean of seven, {each}" if alike else f"not comparable at {each}"
    audited = _read(space, "quality_audited").query("entity == 'overall'").set_index("metric")
    fid, kid, recall = (audited.loc[name] for name in ("fid", "kid", "recall"))
    yield (
        (
            "FID of synthetic images (it falls with n)",
            f"{paper.table_1().loc['overall', 'fid']:.0f}, mean of seven, n = {theirs.min():,.0f} to {theirs.max():,.0f}",
            own,
            f"{_plain(fid)}, pooled, n = {fid['n']:.0f}; real images: {fid['floor']:.0f}",
            SUBSAMPLES,
        ),
        False,
    )
    said = f"{_plain(kid)}, n = {kid['n']:.0f}; real images: {kid['floor']:z.0f}"
    yield ("How far are synthetic images from real ones? KID × 1,000", NONE, NONE, said, SUBSAMPLES), True
    others = space.tables / f"{OTHERS}.csv"
    for kid in pd.read_csv(others).query("metric == 'kid'").itertuples() if others.is_file() else ():
        said = f"{kid.value:.0f} ({kid.low:.0f} to {kid.high:.0f}), n = {kid.n}; trained on {kid.images_seen:,} images"
        columns = (said, NONE) if kid.lesions == "all" else (NONE, said)  # of one that saw the test lesions
        yield (f"And those of the {kid.generator}? KID × 1,000", NONE, *columns, SUBSAMPLES), False
    said = f"{_share(recall, 'value')}, n = {recall['n']:.0f}; real images: {recall['floor']:.2f}"
    yield ("How much of the real variety do they hold? Recall", NONE, NONE, said, SUBSAMPLES), True
    named = _read(space, "quality_fidelity").set_index(["network", "entity"]).loc[fidelity.INDEPENDENT, "overall"]
    made, real = (f"{named[side]:.0%}, n = {named[n]:,.0f}" for side, n in (("synthetic", "n"), ("real", "n_real")))
    points, low, high = (f"{100 * named[name]:+.0f}" for name in ("difference", "low", "high"))
    asked = "What share does a network, fitted on real training images, name as asked?"
    yield (asked, NONE, NONE, f"{made}; real images: {real}; {points} points ({low} to {high})", NAMED), True


def _reader(space: Workspace):
    told = _read(space, "reader_intervals").set_index("what").loc["source, all images"]
    printed = {(place, what): value for what, place, value in paper.READER_FIGURES}
    yield (
        (
            "The paper's reader: synthetic or original?",
            f"{printed['AI against original', 'accuracy']:.2f} right",
            f"{told['right']:.0f} of {told['of']:.0f}, {told['share']:.3f}",
            f"{told['share']:.2f} ({told['low']:.2f} to {told['high']:.2f})",
            WILSON,
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
            f"{entity['difference']:+.2f} (p {protocol.p_words(entity['p_value'])})",
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
    there = {name for name in said if ("as published", name, "balanced accuracy") in summary.index}
    for name, words in said.items() if len(summary) else ():
        figures = {
            "accuracy": paper.summary(name)["accuracy"],
            "balanced accuracy": paper.by_class(name)["recall"].mean(),
        }
        for metric, figure in figures.items():
            rerun = _share(summary.loc["as published", name, metric], "mean") if name in there else WAITS
            audited = NONE
            if ("audited", IN_TRIAL[name], metric) in summary.index:
                own = summary.loc["audited", IN_TRIAL[name], metric]
                audited = f"{_share(own, 'mean')}; always nevus: {own['always_nevus']:.2f}"
            asked = (
                f"How does a small convolutional network, in place of the paper's, do on {words}? {metric.capitalize()}"
            )
            kind = NONE if rerun == WAITS and audited == NONE else DRAWN
            yield (asked, f"{figure:.2f}", rerun, audited, kind), name == "combined" and metric != "accuracy"
    rerun = OWN_TESTS if {"original", "combined"} <= there else WAITS
    trial = _read(space, "trial")
    primary = trial[trial["role"] == protocol.PRIMARY].iloc[0]
    audited = f"**{primary['verdict']}**: macro AUC {_change(primary)}"
    yield (question, gain, rerun, audited, LESIONS), True
    yield from _first_run(space, trial)
    for role in (protocol.CONTROL, protocol.FAMILY, protocol.SENSITIVITY):
        for _, row in trial[trial["role"] == role].iterrows():
            asked = ROLES[role].format(comparison=row["comparison"]) + NOTES.get(row["comparison"], "")
            said = _verdict(row) + _provisional(row, trial) if row["seeds"] else WAITS
            leads = row["comparison"] in BESIDE and row["seeds"] > 0
            yield (asked, NONE, NONE, said, LESIONS if row["seeds"] else NONE), leads
    yield from _real_alone(space)
    yield from _described(space)
    yield from _moved_by_the_prior(space)
    yield from _ladder(space)


def _verdict(row: pd.Series) -> str:
    """Verdict, measure and change of a comparison, with Holm's p where it is of the family."""
    unit = " by unit of dose" if row["comparison"] == protocol.TREND else ""
    said = f"{row['verdict']}: {row['measure']}{unit} {_change(row)}"
    return said + (f", p {protocol.p_words(row['p_holm'])} after Holm" if row["role"] == protocol.FAMILY else "")


def _provisional(row: pd.Series, trial: pd.DataFrame) -> str:
    """A clause where an equivalent comparison of the family would be another verdict if those that wait had found something."""
    waiting = trial["role"].eq(protocol.FAMILY) & trial["seeds"].eq(0)
    excludes_zero = row["low"] > 0 or row["high"] < 0
    if (
        row["role"] != protocol.FAMILY
        or row["verdict"] != protocol.EQUIVALENT
        or not excludes_zero
        or not waiting.any()
    ):
        return ""
    return f"; provisional, for Holm counts what was not run as p = 1: unadjusted p {protocol.p_words(row['p'])}"


def _first_run(space: Workspace, trial: pd.DataFrame):
    """The trial's first answer, on another generator's images, where the run in `space` gives another beside it; and the
    members of the family whose verdict was another."""
    first, notes = project_root() / FIRST_RUN, space.root / "manifest.json"
    if not (first.is_file() and notes.is_file()):
        return
    told, profile = pd.read_csv(first), json.loads(notes.read_text(encoding="utf-8"))["profile"]
    now = trial.set_index("comparison")
    for _, row in told[told["profile"].eq(profile)].iterrows():
        own, leads = now.loc[row["comparison"]], row["role"] == protocol.PRIMARY
        other = leads and not np.isclose(row["difference"], own["difference"], atol=1e-8)
        if other or (row["role"] == protocol.FAMILY and row["seeds"] and row["verdict"] != own["verdict"]):
            what = "The same" if leads else f"Of the protocol's family: {row['comparison']}"
            asked = f"{what}, asked first with images of {row['generator']} (docs/PROTOCOL.md, amendments)"
            yield (asked, NONE, NONE, _verdict(row), LESIONS), False


def _real_alone(space: Workspace):
    """How good each network of the trial is without a synthetic image."""
    runs = _if_there(space, "ablation", "model", "training_set", "protocol", "metric", "value", "seed")
    runs = runs[runs["training_set"].eq(protocol.ORIGINALS) & runs["protocol"].eq("audited")]
    for network, own in runs.groupby("model", sort=False):
        means, seeds = own.groupby("metric")["value"].mean(), own["seed"].nunique()
        if {protocol.MACRO_AUC, secondary.CORRECTED} <= set(means.index):
            said = f"{protocol.MACRO_AUC} {means[protocol.MACRO_AUC]:.3f}, {secondary.CORRECTED} {means[secondary.CORRECTED]:.3f}"
            asked = (
                f"How well does the trial's network tell entities, taught by all originals alone? ({_network(network)})"
            )
            yield (asked, NONE, NONE, f"{said}; mean of {seeds} seeds", NONE), False


def _moved_by_the_prior(space: Workspace):
    """What balanced synthetic images do to balanced accuracy, in the part that the moved prior would give alone and the rest;
    and what else moves it though synthetic images teach nothing."""
    told = _if_there(space, "trial_secondary", "comparison", "measure")
    told = told[told["comparison"] == f"{protocol.BALANCED} against {protocol.ORIGINALS}"].set_index("measure")
    parts = secondary.ARGMAX, secondary.ARTEFACT, secondary.REMAINDER
    if set(parts) <= set(told.index):
        whole, moved, rest = (_change(told.loc[part]) for part in parts)
        said = f"{whole}: {moved} by the moved prior alone, {rest} the rest"
        yield (MOVED, NONE, NONE, said, DRAWN), False
        others = _if_there(space, "trial_secondary", "comparison", "measure").query("measure == @secondary.ARGMAX")
        others = others.set_index("comparison")
        for name in (protocol.LOGIT_ADJUSTMENT, protocol.CLASS_WEIGHTS, protocol.OVERSAMPLING):
            if (key := f"{name} against {protocol.ORIGINALS}") in others.index:
                yield (f"{NEED_NONE} ({name})", NONE, NONE, _change(others.loc[key]), DRAWN), False
    for row in _if_there(space, "trial_gain", "part").to_dict("records"):
        asked = f"What moves balanced accuracy though synthetic images teach nothing? {row['part']} ({_network(row['network'])})"
        alone = row["part"] == secondary.CHANCE
        said = f"{row['size']:.3f}" if alone else _change(pd.Series(row | {"difference": row["size"]}))
        yield (asked, NONE, NONE, said, NONE if alone else DRAWN), False


def _described(space: Workspace):
    """What the protocol describes of the primary comparison beside its measure, for both networks that were asked."""
    table = _if_there(space, "trial_secondary", "comparison", "measure")
    for comparison, network in (
        ("synthetic against repeated originals", protocol.FROZEN), (protocol.TUNED_PRIMARY, protocol.TUNED),
    ):  # fmt: skip
        own = table[table["comparison"] == comparison].set_index("measure")
        for measure in (secondary.LOG_LOSS, secondary.CORRECTED):
            if measure in own.index:
                asked = f"Described, not tested: synthetic against repeated originals, {measure}? ({network})"
                better = " (less is better)" * (measure == secondary.LOG_LOSS)
                yield (asked, NONE, NONE, _change(own.loc[measure]) + better, DRAWN), False


def _ladder(space: Workspace):
    """What each step from the published protocol to the audited one changes, a row a step, network and measure."""
    for row in _read(space, "classifier_ladder").dropna(subset="difference").to_dict("records"):
        asked = "From as published to audited, step by step:" if row["step"] in LADDER else "And from its end to"
        seeds = f"{row['seeds']} seeds" if row["seeds"] > 1 else "one seed"
        said = f"{asked} {row['step']}, {row['measure']}? ({_network(row['network'])}, {seeds})"
        known = pd.notna(row["low"])
        change = _change(pd.Series(row)) if known else f"{row['difference']:+.3f}"
        clear = known and not row["low"] <= 0 <= row["high"]
        same = known and max(-row["low"], row["high"]) < 5e-4  # every answer is the same
        end = "" if clear else ", no change" if same else ", not resolved"
        yield (said, NONE, NONE, change + end, LESIONS if known else NONE), False


def _network(name: str) -> str:
    return SMALL_NETWORK if name == protocol.KERAS else name


def _if_there(space: Workspace, name: str, *columns: str) -> pd.DataFrame:
    """A table; where a run of older code lacks it, one of `columns` without rows."""
    path = space.tables / f"{name}.csv"
    return pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=list(columns))


def _taught(space: Workspace):
    ways = {"inversion_by_entity": "as vectors (08)", "which_parts_by_entity": "by training parts of it (09)"}
    for name, how in ways.items():
        table = _if_there(space, name, "trial", "entity", "named", "real_n", "real_named")
        for code, own in table.groupby("entity", sort=False):
            before = own[own["trial"] == UNTAUGHT].iloc[0]
            tried = own[~own["trial"].isin([UNTAUGHT, *own["trial"][own["trial"].str.startswith("all weights")]])]
            best = tried.loc[tried["named"].idxmax()]
            asked = (
                f"Exploratory: {NAMES[code]} taught to a generator {how}; in how many images does a network name it?"
            )
            said = f"at most {best['named']:.0f} of {best['n']:.0f}, before {before['named']:.0f}"
            yield (
                (asked, NONE, NONE, f"{said}; real images: {best['real_named']:.0f} of {best['real_n']:.0f}", NONE),
                False,
            )
    for place, row in enumerate(_read(space, "inversion_downstream").to_dict("records")):
        question = f"Exploratory: two entities taught to the generator; a network trained on {row['training']} tells them apart"
        gain = f"; against real alone {row['gain']:+.3f} ({row['gain_low']:+.3f} to {row['gain_high']:+.3f})"
        yield (question, NONE, NONE, f"AUC {_share(row, 'auc')}" + gain * bool(place), DRAWN), False


def _count(row) -> str:
    """Images of how many, with their share where it is at least one in two hundred."""
    share = f" ({row['share']:.0%})" if row["share"] >= 0.005 else ""
    return f"{row['leaked']:,.0f} of {row['test_images']:,.0f}{share}"


def _plain(row) -> str:
    return f"{row['value']:.0f} ({row['low']:.0f} to {row['high']:.0f})"


def _share(row, value: str) -> str:
    return f"{row[value]:.2f} ({row['low']:.2f} to {row['high']:.2f})"


def _change(row: pd.Series) -> str:
    change, low, high = (f"{row[name]:+z.3f}".replace("+0.000", "0.000") for name in ("difference", "low", "high"))
    return f"{change} ({low} to {high})"
