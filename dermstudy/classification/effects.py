"""A comparison of the trial told as an effect: by how much, with its interval, and where that lies to the margin.

The verdicts of docs/PROTOCOL.md (helps, harms, equivalent, not resolved) stay the keys of trial.csv. A word such as "harms"
does not say how much, for which network, or beside what: pages and figures tell that.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from dermstudy.classification import protocol, secondary, trial

# Names of comparisons whose key in the tables says something else than what was compared.
PRINTED = {
    "rare entities alone": "the primary comparison, scored on rare entities",
    "rare entities alone, synthetic against repeated originals": "fine-tuned, as the primary, scored on rare entities",
}
NETWORKS = {
    protocol.FROZEN: "a linear probe on frozen features", protocol.TUNED: "the fine-tuned network",
    protocol.KERAS: "the paper's CNN",
}  # fmt: skip
FOUND = {  # what a figure has in place of the verdict
    protocol.HELPS: "higher", protocol.HARMS: "lower", protocol.EQUIVALENT: "equivalent",
    protocol.NOT_RESOLVED: "not resolved",
}  # fmt: skip
BESIDE = {  # described pairs that stand beside the primary comparison, and how their sentence begins
    f"{protocol.STRONGER} against {protocol.ORIGINALS}": "Stronger augmentation of the same real images changes",
    f"{protocol.RARE_ONLY} against {protocol.REPEATED_RARE}":
        "Synthetic images of rare entities, in place of repeated originals of them, change",
}  # fmt: skip
IN_SHORT = {  # the comparisons of the first page, a line for the change and one for the network
    "synthetic against repeated originals": "synthetic images in place of repeated ones,\nlinear probe",
    protocol.TUNED_PRIMARY: "synthetic images in place of repeated ones,\nfine-tuned network",
    f"{protocol.STRONGER} against {protocol.ORIGINALS}": "stronger augmentation of the same images,\nlinear probe",
    "all originals against the 30 % subset": "all real lesions in place of 30 % of them,\nlinear probe",
    "fine-tuned, all originals against the 30 % subset": "all real lesions in place of 30 % of them,\nfine-tuned network",
}
(PRIMARY,) = (own.name for own in protocol.COMPARISONS if own.role == protocol.PRIMARY)


def printed(comparison: str) -> str:
    """The name of a comparison for a reader."""
    return PRINTED.get(comparison, comparison)


def cell(row: Mapping | pd.Series) -> str:
    """A row of `trial_table` for a table: its change with the interval, then what that is."""
    unit = " by unit of dose" if row["comparison"] == protocol.TREND else ""
    if pd.isna(row["difference"]):
        return protocol.NOT_RESOLVED
    said = f"{row['measure']}{unit} {protocol.signed(row['difference'])} ({_interval(row)})"
    p = f", p {protocol.p_words(row['p_holm'])} after Holm" if row["role"] == protocol.FAMILY else ""
    if row["verdict"] in (protocol.HELPS, protocol.HARMS):
        return f"{said}{p}: {FOUND[row['verdict']]}, {place(row)}"
    if row["verdict"] == protocol.EQUIVALENT:
        return f"{said}{p}: no difference that matters, {place(row)}"
    return f"{said}{p}: {protocol.NOT_RESOLVED}"


def lines(table: pd.DataFrame) -> list[str]:
    """A line for each comparison of `trial_table`: its role, its name, its network, and its `cell`, or that it was not run."""
    return [
        f"{row['role'].capitalize()}, {printed(row['comparison'])} ({NETWORKS[row['network']]}): "
        f"{cell(row) if row['seeds'] else 'not run'}."
        for row in table.to_dict("records")
    ]


def sentence(row: Mapping | pd.Series, subject: str = "") -> str:
    """A row of `trial_table` as a sentence: by how much the measure moves, for which network, and where the margin is.

    A comparison that is not resolved, and the positive control, have the protocol's sentence, which says that already.
    subject: what is compared, with its network; "" takes the protocol's words.
    """
    if row["verdict"] == protocol.NOT_RESOLVED or row["role"] == protocol.CONTROL:
        return trial.verdict_sentence(row)
    if not subject:
        (subject,) = (own.subject for own in protocol.COMPARISONS if own.name == row["comparison"])
        if row["network"] != protocol.TUNED:  # whose subjects name it
            subject = f"{subject.rstrip(',')}, for {NETWORKS[row['network']]},"
    moved = f"changes {row['measure']} by {protocol.signed(row['difference'])}"
    if row["verdict"] != protocol.EQUIVALENT:
        verb = "raises" if row["difference"] > 0 else "lowers"
        moved = f"{verb} {row['measure']} by {protocol.unsigned(row['difference'])}"
    p = f"p {protocol.p_words(row['p_holm'])}" + " after Holm" * (row["role"] == protocol.FAMILY)
    return f"{subject[0].upper()}{subject[1:]} {moved} (95 % interval {_interval(row)}, {p}), {place(row)}."


def answer(table: pd.DataFrame) -> str:
    """`sentence` of the primary comparison, of the same for the fine-tuned network, and of a missed positive control.

    The protocol asks for the second generator's verdict where it is another one: it follows then.
    """
    ran = table[table["seeds"] > 0]
    primary = table[table["role"] == protocol.PRIMARY].iloc[0]
    second = ran[(ran["comparison"] == protocol.SECOND_GENERATOR) & (ran["verdict"] != primary["verdict"])]
    tuned = ran[ran["comparison"] == protocol.TUNED_PRIMARY]
    missed = ran[(ran["role"] == protocol.CONTROL) & (ran["verdict"] != protocol.HELPS)]
    said = [sentence(row) for part in (second, missed) for _, row in part.iterrows()]
    same = [sentence(row, "the same, for the fine-tuned network,") for _, row in tuned.iterrows()]
    return " ".join([sentence(primary), *same, *said])


def in_short(tested: pd.DataFrame, described: pd.DataFrame) -> pd.DataFrame:
    """The rows that answer the study's question, at most five, in plain words: what a forest plot without roles draws.

    tested, described: as `trial_table` and `described_table` give them; a comparison that was not run has no row.
    """
    every = pd.concat([tested, described]).query("seeds > 1").drop_duplicates("comparison").set_index("comparison")
    rows = every.loc[[name for name in IN_SHORT if name in every.index]].reset_index()
    return rows[["comparison", "seeds", "lesions", "difference", "low", "high"]].assign(
        comparison=rows["comparison"].map(IN_SHORT), margin=protocol.MARGIN
    )


def place(row: Mapping | pd.Series) -> str:
    """Where the interval lies to the margin."""
    least, most = sorted(abs(row[end]) for end in ("low", "high"))
    one_sided = row["low"] * row["high"] > 0
    where = "inside" if most < row["margin"] else "beyond" if one_sided and least > row["margin"] else "partly beyond"
    return f"{where} the margin of ±{protocol.unsigned(row['margin'])}"


def beside(described: pd.DataFrame, measured: pd.DataFrame) -> str:
    """What stands beside the primary comparison: BESIDE, and log loss and calibration of both networks.

    described, measured: trial_described and trial_secondary; "" for a part that is not there.
    """
    parts = []
    for row in described[described["comparison"].isin(BESIDE)].dropna(subset="difference").to_dict("records"):
        change = f"{protocol.signed(row['difference'])} ({_interval(row)})"
        parts.append(f"{BESIDE[row['comparison']]} the probe's {row['measure']} by {change}.")
    for comparison, network in ((PRIMARY, "the probe's"), (protocol.TUNED_PRIMARY, "the fine-tuned network's")):
        own = measured[measured["comparison"] == comparison].set_index("measure")
        told = [
            _moved(own.loc[name], name) for name in (secondary.LOG_LOSS, secondary.CALIBRATION) if name in own.index
        ]
        if any(told):
            parts.append(f"Synthetic images make {network} {' and '.join(filter(None, told))}.")
    return " ".join(parts)


def _interval(row: Mapping | pd.Series) -> str:
    return f"{protocol.bound(row['low'])} to {protocol.bound(row['high'])}"


def _moved(row: pd.Series, measure: str) -> str:
    """A measure of which less is better, where its interval leaves out zero; "" elsewhere."""
    sense = "better" if row["high"] < 0 else "worse" if row["low"] > 0 else ""
    return f"{measure} {sense} ({protocol.signed(row['difference'])})" if sense else ""
