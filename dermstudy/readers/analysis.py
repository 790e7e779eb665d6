"""The analysis of reader answers: reports, confusion matrices, ROC from hard labels, intervals and agreement.

Sources: Shavlokhova et al., sections 2.3 and 3.2 (as published); Wilson, JASA 22 (1927) for intervals; Cohen,
Educ. Psychol. Meas. 20 (1960) for kappa; Fisher's exact test. scikit-learn, statsmodels and scipy do the mathematics.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.metrics import accuracy_score, classification_report, confusion_matrix, roc_auc_score, roc_curve

from dermstudy.entities import CODES, NAMES
from dermstudy.intervals import wilson
from dermstudy.readers.statistics import cohen_kappa
from dermstudy.readers.workbook import SOURCES


def entity_report(answers: pd.DataFrame) -> pd.DataFrame:
    """Precision, recall, F1 and support by entity, with accuracy, macro and weighted averages (sklearn)."""
    return report(answers["entity"], answers["entity_answer"], CODES)


def source_report(answers: pd.DataFrame) -> pd.DataFrame:
    """The same for AI against original; an answer "unsure" is never right and belongs to neither."""
    return report(answers["source"], answers["source_answer"], SOURCES)


def report(true: pd.Series, answer: pd.Series, labels: tuple[str, ...]) -> pd.DataFrame:
    """sklearn's classification report as a table; index: labels, "accuracy", "macro avg", "weighted avg".

    A label without images has NaN and support 0, and is in no average.
    """
    shown = [label for label in labels if (true == label).any()]
    table = pd.DataFrame(
        np.nan, [*labels, "accuracy", "macro avg", "weighted avg"], ["precision", "recall", "f1-score"]
    )
    table["support"] = len(true)
    table.loc[list(labels), "support"] = 0
    if shown:
        content = classification_report(true, answer, labels=shown, output_dict=True, zero_division=0.0)
        accuracy = dict.fromkeys(("precision", "recall", "f1-score"), accuracy_score(true, answer))
        content["accuracy"] = accuracy | {"support": len(true)}
        table.update(pd.DataFrame.from_dict({name: content[name] for name in table.index if name in content}, "index"))
    return table.rename(columns={"f1-score": "f1"}).astype({"support": int})


def entity_confusion(answers: pd.DataFrame) -> np.ndarray:
    """Counts [7, 7]: rows true entities, columns answers, both in the paper's class order (Figure S2)."""
    return confusion_matrix(answers["entity"], answers["entity_answer"], labels=list(CODES))


def source_confusion(answers: pd.DataFrame) -> np.ndarray:
    """Counts [2, 2]: rows true original, AI; columns answers; "unsure" answers are left out."""
    sure = answers[answers["source_answer"] != "unsure"]
    return confusion_matrix(sure["source"], sure["source_answer"], labels=list(SOURCES))


def entity_curves(answers: pd.DataFrame) -> dict[str, dict]:
    """One-vs-rest ROC of the hard answers by entity (Figure 2A): false and true positive rates, AUC.

    A hard label is one operating point: the curve is two straight lines through it, and its AUC is the mean of
    sensitivity and specificity.
    """
    return {code: _curve(answers["entity"] == code, answers["entity_answer"] == code) for code in CODES}


def source_curve(answers: pd.DataFrame) -> dict:
    """ROC of the hard AI answers against the truth (Figure 2B)."""
    return _curve(answers["source"] == "AI", answers["source_answer"] == "AI")


def _curve(true: pd.Series, answer: pd.Series) -> dict:
    if true.nunique() < 2:  # no image of one of the two: there is no curve
        return {"false_positive_rate": np.empty(0), "true_positive_rate": np.empty(0), "auc": float("nan")}
    false_positive, true_positive, _ = roc_curve(true, answer.astype(int))
    area = float(roc_auc_score(true, answer.astype(int)))
    return {"false_positive_rate": false_positive, "true_positive_rate": true_positive, "auc": area}


def figures_of_section_3_2(answers: pd.DataFrame) -> dict[tuple[str, str], float]:
    """The figures of section 3.2, recomputed: (what, where) -> value, keyed as paper.READER_FIGURES."""
    on_ai = answers["source"] == "AI"
    tables = {
        "AI against original": source_report(answers),
        "entities": entity_report(answers),
        "entities, AI images": entity_report(answers[on_ai]),
        "entities, original images": entity_report(answers[~on_ai]),
    }
    cells = {"accuracy": ("accuracy", "recall"), "macro F1": ("macro avg", "f1"), "weighted F1": ("weighted avg", "f1")}
    values = {(what, where): table.loc[cell] for where, table in tables.items() for what, cell in cells.items()}
    for source in SOURCES:
        for measure in ("precision", "recall"):
            values[f"{measure} {source}", "AI against original"] = tables["AI against original"].loc[source, measure]
    return values


def proportions(answers: pd.DataFrame) -> pd.DataFrame:
    """Shares of right answers with 95 % Wilson intervals: columns what, right, of, share, low, high, answers (`whose`)."""
    right = answers["entity"] == answers["entity_answer"]
    on_ai = answers["source"] == "AI"
    source_right = answers["source"] == answers["source_answer"]
    rows = [
        ("source, all images", source_right),
        ("source, AI images", source_right[on_ai]),
        ("source, original images", source_right[~on_ai]),
        ("entity, all images", right),
        ("entity, AI images", right[on_ai]),
        ("entity, original images", right[~on_ai]),
    ]
    rows += [(f"entity, {NAMES[code]}", right[answers["entity"] == code]) for code in CODES]
    table = pd.DataFrame([{"what": name, **wilson(int(part.sum()), len(part))} for name, part in rows])
    return table.assign(answers=whose(answers))


def whose(answers: pd.DataFrame) -> str:
    """Where answers come from: what their column provenance says, or a workbook of readers' own."""
    return answers["provenance"].iloc[0] if "provenance" in answers else "readers' own workbook"


def told_apart(shares: pd.DataFrame) -> str:
    """Whether AI and original images are told apart more often than by guessing, from `proportions`."""
    row = shares.set_index("what").loc["source, all images"]
    where = "above" if row["low"] > 0.5 else "below" if row["high"] < 0.5 else "around"
    return (
        f"AI and original told apart in {row['right']:.0f} of {row['of']:.0f} images ({row['share']:.2f}, Wilson's 95 % interval "
        f"{row['low']:.2f} to {row['high']:.2f}): an interval {where} guessing, 0.50"
    )


def order_of_entities(shares: pd.DataFrame) -> str:
    """In how many pairs of entities the intervals of `proportions` overlap, and what that says of the entities' order."""
    own = shares[shares["what"].isin([f"entity, {name}" for name in NAMES.values()]) & (shares["of"] > 0)]
    if len(own) < 2:
        return "fewer than two entities have answers: they have no order"
    bounds = list(own[["low", "high"]].itertuples(index=False, name=None))
    pairs = [(one, two) for place, one in enumerate(bounds) for two in bounds[place + 1 :]]
    overlap = sum(one[0] <= two[1] and two[0] <= one[1] for one, two in pairs)
    order = "not established" if overlap else "established"
    return f"the intervals of {overlap} of {len(pairs)} pairs of entities overlap: the order of the entities is {order}"


def difference_words(difference: dict[str, float]) -> str:
    """What `source_difference` found, in a sentence; a difference is shown where p < 0.05."""
    if np.isnan(difference["p_value"]):
        return "AI images and originals are not compared: answers to images of one kind are lacking"
    how = "is named rightly more often" if difference["difference"] > 0 else "is named rightly less often"
    if difference["p_value"] >= 0.05:
        how = "is not shown to be named rightly more or less often"
    return (
        f"the entity of AI images {how} than that of originals: {difference['AI']:.1%} and {difference['original']:.1%}, "
        f"Fisher's exact p {p_words(difference['p_value'])}"
    )


def p_words(p: float) -> str:
    """ "= 0.012" or "< 0.001": a p value is never zero; "not defined" for NaN."""
    if np.isnan(p):
        return "not defined"
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def source_difference(answers: pd.DataFrame) -> dict[str, float]:
    """Entity accuracy on AI minus original images, with Fisher's exact two-sided p value (scipy); NaN without images of both."""
    from scipy.stats import fisher_exact

    right = answers["entity"] == answers["entity_answer"]
    own = {source: right[answers["source"] == source] for source in ("AI", "original")}
    shares = {source: float(cells.mean()) for source, cells in own.items()}
    counts = [[int(cells.sum()), int((~cells).sum())] for cells in own.values()]
    p_value = float(fisher_exact(counts).pvalue) if all(map(sum, counts)) else float("nan")
    return {**shares, "difference": shares["AI"] - shares["original"], "p_value": p_value}


def kappa(answers: pd.DataFrame) -> dict[str, float]:
    """Cohen's kappa of a reader's answers with the truth, for entities and for AI against original."""
    return {
        "entity": cohen_kappa(answers["entity"], answers["entity_answer"]),
        "source": cohen_kappa(answers["source"], answers["source_answer"]),
    }
