"""What notebooks 08 and 09 say of their trials: learning curves, fidelity by entity, the trial that is gone on with."""

from __future__ import annotations

import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from dermstudy.adaptation import findings, learning, teaching
from dermstudy.entities import COLOURS

STEPS = [0, 3, 6, 9, 12]


def log_of(**curves) -> pd.DataFrame:
    """A log of one seed: the held-out losses of each trial at STEPS."""
    parts = []
    for name, values in curves.items():
        loss = [np.nan, *values[1:]]
        own = {"trial": name, "seed": 0, "step": STEPS, "loss": loss, "validation_loss": values, "held_out": 8}
        parts.append(pd.DataFrame(own))
    return pd.concat(parts, ignore_index=True)


CURVES = log_of(
    falling=[1.0, 0.9, 0.8, 0.7, 0.6],
    flat=[1.0, 0.7, 0.6, 0.58, 0.56],
    rising=[1.0, 0.6, 0.6, 0.6, 0.7],
    worse=[1.0, 1.1, 1.2, 1.3, 1.4],
    nothing=[1.0, 0.9999, 0.9998, 0.9997, 0.9996],
)


def test_the_last_third_by_hand():
    found = learning.last_third(CURVES).set_index("trial")
    assert found["curve"].tolist() == ["falls", "flat", "rises", "no fall of a thousandth", "no fall of a thousandth"]
    assert found.loc["flat", ["first", "before", "last", "lowest"]].tolist() == [1.0, 0.58, 0.56, 0.56]
    just = log_of(a=[1.0, 0.9, 0.8, 0.5, 0.45], b=[1.0, 0.9, 0.8, 0.5, 0.44])  # 0.05 of 0.55, and 0.06 of 0.56
    assert learning.last_third(just)["curve"].tolist() == ["flat", "falls"]


def test_seeds_are_averaged_before_a_curve_is_judged():
    fall, rise = (log_of(a=values) for values in ([1.0, 0.9, 0.8, 0.7, 0.5], [1.0, 0.9, 0.8, 0.7, 0.9]))
    both = pd.concat([fall, rise.assign(seed=1)])
    assert (
        learning.last_third(both)["curve"].tolist() == ["flat"] and learning.last_third(fall)["curve"].item() == "falls"
    )
    (ax, _) = learning.learning_figure(both).axes
    lines = [line.get_linestyle() for line in ax.get_lines() if len(line.get_xdata()) > 2]
    assert sorted(lines) == ["-", "None"]  # the mean, and each seed as dots
    plt.close("all")


def test_the_sentence_says_which_curves_still_fall():
    assert learning.learning_sentence(CURVES) == (
        "The loss on held-out lesions (n = 8 images a training): over the last third of the steps it still falls for falling, "
        "so that more steps may teach more; it has flattened for flat; it rises again for rising; it never lies a "
        "thousandth below that before training for worse and nothing, so that what is painted then says nothing of having "
        "learned the entity."
    )
    assert "it has flattened for every training." in learning.learning_sentence(CURVES.query("trial == 'flat'"))


def test_each_entity_that_was_taught_alone_has_its_curve():
    flat, falling = ([1.0, 0.7, 0.6, 0.58, 0.56], [1.0, 0.9, 0.8, 0.7, 0.6])
    logs = [log_of(a=values).assign(entity=code) for code, values in (("mel", flat), ("bcc", falling))]
    trials = [
        teaching.Trial(name, None, {}, {}, pd.concat(logs).drop(columns=["trial", "seed"]))
        for name in ("1 vector, 30 images", "16 vectors, 30 images")
    ]
    trials[1].log.loc[trials[1].log["entity"] == "mel", "validation_loss"] = falling
    log = learning.training_log([teaching.Trial("unadapted", None, {}), *trials], 3)
    assert list(log.columns) == ["trial", "entity", "seed", "step", "loss", "validation_loss", "held_out"]
    assert len(log) == 20 and set(log["seed"]) == {3} and set(log["trial"]) == {trial.name for trial in trials}
    assert "still falls for 1 vector from 30 images of basal cell carcinoma and 16 vectors from 30 images, so" in (
        learning.learning_sentence(log)
    )
    figure = learning.learning_figure(log)
    assert [ax.get_title(loc="left") or ax.get_title() for ax in figure.axes][::2] == [
        "melanoma, n = 8 held out",
        "basal cell carcinoma, n = 8 held out",
    ]
    assert figure.axes[1].get_ylim()[0] == 0 and all(ax.get_xlim()[0] == 0 for ax in figure.axes)
    assert figure.axes[0].get_lines()[0].get_ydata()[-1] == pytest.approx(-44)  # % of the loss before training
    plt.close(figure)


def by_entity(**named) -> pd.DataFrame:
    """Images named as asked of 8, by trial: melanoma's and basal cell carcinoma's."""
    rows = [
        {"trial": trial, "entity": code, "n": 8, "kid": 100.0, "floor": 2.0, "named": count, "real_n": 10, "real_named": right}
        for trial, counts in named.items()
        for (code, right), count in zip((("mel", 6), ("bcc", 9)), counts, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_fidelity_is_told_by_entity_and_what_is_never_painted_is_said():
    table = by_entity(unadapted=(0, 1), text=(0, 3), lora=(0, 3), other=(4, 2))
    melanoma, carcinoma = findings.fidelity_sentences(table, ["text", "lora"]).splitlines()
    assert melanoma == (
        "Melanoma: never painted, as the network sees it: 0 of 8 named as asked by every way, 0 of 8 unadapted; other 4 of 8; "
        "of real test images 6 of 10."
    )
    assert carcinoma == (
        "Basal cell carcinoma: 1 of 8 named as asked unadapted, at most 3 of 8 once taught (every way); other 2 of 8; of real "
        "test images 9 of 10."
    )
    table.loc[(table["trial"] == "lora") & (table["entity"] == "mel"), "named"] = 1
    assert "at most 1 of 8 once taught (lora)" in findings.fidelity_sentences(table, ["text", "lora"])


def test_the_table_by_entity_counts_and_ends_with_real_images():
    shown = findings.by_entity(by_entity(unadapted=(0, 1), text=(2, 3)))
    assert shown["melanoma, named as asked"].to_dict() == {
        "unadapted": "0 of 8", "text": "2 of 8", findings.REAL: "6 of 10",
    }  # fmt: skip
    assert shown.loc[findings.REAL, "basal cell carcinoma, KID"] == 2.0


def gains(**rows) -> pd.DataFrame:
    columns = ["kid", "gain", "gain_low", "gain_high"]
    return pd.DataFrame(rows, index=columns).T.rename_axis("trial").assign(floor=2.0)


def test_a_choice_is_called_exploratory_and_says_whom_it_cannot_be_told_from():
    trials = gains(a=(90, 10, 2, 18), b=(80, 20, 12, 28), c=(99, 1, -3, 5))
    said = findings.chosen_sentence(trials, by_entity(a=(0, 0), b=(0, 0)))
    assert said == (
        "Exploratory: b (KID 80) has the largest gain clear of zero, by the test lesions that also judge it, n = 8 images an "
        "entity; its gain's interval meets that of a. The cells below use it."
    )
    assert "meets no other's" in findings.chosen_sentence(trials.drop(index="a"), by_entity(b=(0, 0)))
    assert "it is the only trial" in findings.chosen_sentence(trials.loc[["b"]], by_entity(b=(0, 0)))


def test_a_gain_that_may_be_none_is_chosen_only_where_all_may_be():
    trials = gains(wide=(70, 30, -5, 65), narrow=(90, 10, 2, 18))
    assert findings.chosen(trials) == "narrow" and findings.chosen(trials.loc[["wide"]]) == "wide"
    assert "has the largest gain, by" in findings.chosen_sentence(trials.loc[["wide"]], by_entity(wide=(0, 0)))
    lost = findings.chosen_sentence(gains(a=(105, -5, -9, -1), b=(109, -9, -20, -2)), by_entity(a=(0, 0), b=(0, 0)))
    assert lost.startswith("Exploratory: a (KID 105) has the smallest rise of KID, by the test lesions")


def test_the_figure_shows_fidelity_by_entity_beside_this_networks_bound():
    overview = gains(unadapted=(100, 0, 0, 0), a=(90, 10, 2, 18))
    figure = findings.overview_figure(overview, by_entity(unadapted=(0, 1), a=(4, 2)))
    ax, width = figure.axes[1], {"mel": 0.6, "bcc": 0.9}
    for code, bound in width.items():
        own = [line for line in ax.get_lines() if to_hex(line.get_color()) == COLOURS[code].lower()]
        dots, dashed = own
        assert dashed.get_linestyle() == "--" and set(dashed.get_xdata()) == {bound}
        assert list(dots.get_xdata()) == {"mel": [0, 0.5], "bcc": [0.125, 0.25]}[code]
    assert "n = 8 an entity" in ax.get_xlabel() and "real test images" in ax.get_xlabel()
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["unadapted", "a"]
    plt.close(figure)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (None, "keep no record of entities left out of their training: take them to have met melanoma and basal cell"),
        ([], "their training held images of melanoma and basal cell carcinoma, taught here again"),
        (
            ["mel", "bcc"],
            "By the lineage of these weights their training held no image of melanoma or basal cell carcinoma.",
        ),
        (
            ["mel"],
            "held no image of melanoma but images of basal cell carcinoma, taught here again and not for the first",
        ),
    ],
)
def test_what_the_weights_have_met_is_read_from_their_lineage(tmp_path, record, said):
    if record is not None:
        (tmp_path / "lineage.json").write_text(json.dumps({"base": {"left_out": record}}))
    assert said in findings.met_sentence(tmp_path / "base", ["mel", "bcc"])
