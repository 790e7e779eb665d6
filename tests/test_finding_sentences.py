"""The finding of each notebook from small tables made by hand: it says what they say, in either direction."""

from __future__ import annotations

import pandas as pd
import pytest

from dermstudy.classification import protocol, training_sets
from dermstudy.evaluation import fidelity, verdicts
from dermstudy.readers import workbook
from dermstudy.runner import openings
from dermstudy.workspace import Workspace


@pytest.fixture
def said(tmp_path):
    """The finding of a notebook from tables given by name, read back from files as it is in a run."""
    space = Workspace(tmp_path)
    space.tables.mkdir()

    def sentence(stem: str, **tables: pd.DataFrame) -> str:
        for name, table in tables.items():
            table.to_csv(space.tables / f"{name}.csv", index=False)
        return openings.sentence(stem, space)

    return sentence


def trials(**gains: tuple[float, float, float, float]) -> pd.DataFrame:
    """Trials as 08 and 09 keep them, from kid, gain, gain_low and gain_high by name."""
    rows = [("unadapted", 240.0, 0.0, 0.0, 0.0), *((name, *values) for name, values in gains.items())]
    table = pd.DataFrame(rows, columns=["trial", "kid", "gain", "gain_low", "gain_high"])
    return table.assign(floor=1.0, fidelity=0.2)


def by_entity(names: list[str]) -> pd.DataFrame:
    rows = [(name, code, 8, 0, 0, 2 + place) for name in names for place, code in enumerate(("bcc", "mel"))]
    rows = [("unadapted", "mel", 8, 0, 0, 0), ("unadapted", "bcc", 8, 0, 0, 1), *rows]  # in an order of its own
    return pd.DataFrame(rows, columns=["trial", "entity", "n", "kid", "floor", "named"])


def log(*losses: float) -> pd.DataFrame:
    return pd.DataFrame({"step": range(0, 10 * len(losses), 10), "validation_loss": losses})


def parts(said, **gains) -> str:
    return said("09_which_parts", which_parts=trials(**gains), which_parts_by_entity=by_entity(list(gains)))


def test_a_part_that_helps_is_named_though_another_has_the_lowest_kid(said):
    found = parts(said, unet=(193, 50, -8, 111), lora=(198, 45, 16, 82))
    assert found.startswith(
        "1 of 2 ways to train is shown to bring images nearer to real ones. The best is lora (gain of KID 45, "
    )
    assert (
        "middle 95 % over halves of the images 16 to 82): KID 198 beside 240 of the unadapted model and a floor of 1"
        in found
    )
    assert "2 of 8 of basal cell carcinoma and 3 of 8 of melanoma (unadapted: 1 and 0). Each is one training;" in found


def test_every_part_that_helps_is_named(said):
    found = parts(said, text=(230, 9, 2, 20), unet=(193, 50, 8, 111), both=(235, 1, -3, 5))
    assert found.startswith(
        "2 of 3 ways to train are shown to bring images nearer to real ones. The best is unet (gain of KID 50"
    )


@pytest.mark.parametrize(
    ("gain", "farther"),
    [
        ((243, -4, -9, 2), "one is shown to lead farther from them"),
        ((260, -20, -40, -2), "all are shown to lead farther"),
    ],
)
def test_no_part_helps_where_no_interval_is_above_zero(said, gain, farther):
    found = parts(said, unet=gain, both=(299, -60, -90, -30))
    assert found.startswith(f"None of the 2 ways to train is shown to bring images nearer to real ones; {farther}")
    assert "The smallest rise of KID is that of unet (gain of KID" in found


def test_learned_vectors_are_compared_without_the_trained_weights(said):
    gains = {"1 vector, 30 images": (199, 43, 14, 78), "all weights (01)": (100, 140, 100, 180)}
    both = {"inversion": trials(**gains), "inversion_by_entity": by_entity(list(gains))}
    change = {"gain": [0.0, 0.009], "gain_low": [0.0, -0.012], "gain_high": [0.0, 0.031]}
    found = said("08_textual_inversion", **both, inversion_downstream=pd.DataFrame(change))
    assert "1 of 1 trials of learned vectors is shown to bring images nearer" in found
    assert (
        "The best is 1 vector from 30 images (gain of KID 43, middle 95 % over halves of the images 14 to 78)" in found
    )
    assert found.endswith("changes its AUC by +0.009 (95 % interval −0.012 to +0.031); exploratory.")
    assert "all weights" not in found
    gains["1 vector, 30 images"] = (250, -10, -30, 8)
    found = said("08_textual_inversion", inversion=trials(**gains))
    assert (
        "None of the 1 trials" in found
        and "The smallest rise of KID is that of 1 vector from 30 images (gain of KID −10" in found
    )
    gains["1 vector, 30 images"] = (240, 2, -12, 14)
    found = said("08_textual_inversion", inversion=trials(**gains))
    assert "The largest gain is that of 1 vector from 30 images (gain of KID 2" in found and "farther" not in found


def test_ties_are_named():
    table = trials(unet=(1, 1, 1, 1), both=(1, 1, 1, 1)).set_index("trial").assign(fidelity=[0.1, 0.25, 0.25])
    assert verdicts.most_often_named(table) == "unet and both, 25% each"
    assert verdicts.most_often_named(table.drop(index="both")) == "unet, 25%"
    assert verdicts.listed(["a"]) == "a" and verdicts.listed(["a", "b", "c"]) == "a, b and c"


def test_a_minus_sign_is_no_hyphen():
    assert verdicts.signed("-0.5 (-1 to +2), 2e-09, b-3, 10-20, ±0.1") == "−0.5 (−1 to +2), 2e-09, b-3, 10-20, ±0.1"


@pytest.mark.parametrize(
    ("leaked", "end"), [(0, "0 of 2,046."), (1, "1 of 2,046, by pairs of the same skin that were")]
)
def test_a_leak_of_the_audited_split_is_said(said, leaked, end):
    rows = [("as published", "all", 2003, 774, 0.386), ("audited", "all", 2046, leaked, leaked / 2046)]
    found = said(
        "00_dataset", leak=pd.DataFrame(rows, columns=["protocol", "entity", "test_images", "leaked", "share"])
    )
    assert "774 of 2,003 test images (39%)" in found and f"dealt by lesion, {end}" in found


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.1, 0.3, "0.20 dB higher (+0.10 to +0.30) than bicubic enlargement's"),
        (-0.3, -0.1, "0.20 dB lower (−0.30 to −0.10) than bicubic enlargement's"),
        (-0.3, 0.7, "neither higher nor lower (−0.30 to +0.70) than bicubic enlargement's"),
    ],
)
def test_the_upsampler_is_compared_with_bicubic_by_an_interval(said, low, high, words):
    rows = [("upsampler", 112, 0.93), ("bicubic", 112, 0.6)]
    means = pd.DataFrame(rows, columns=["enlargement", "n", "detail"])
    gained = pd.DataFrame(
        [("psnr", (low + high) / 2, low, high), ("ssim", -0.0094, -0.012, -0.007)],
        columns=["measure", "difference", "low", "high"],
    )
    given = {"upsample_against_bicubic": means, "upsample_differences": gained}
    found = said("02_upsample", **given, upsample_log=log(0.5, 0.4))
    assert found.startswith(f"On 112 real images, each of a held-out lesion, the upsampler's PSNR is {words}")
    assert "its structural similarity 0.009 lower (−0.012 to −0.007)" in found
    assert "it has 93%, bicubic 60%" in found and "Its loss on held-out lesions is 0.4000 at its lowest" in found
    assert "Its loss" not in said("02_upsample", **given, upsample_log=log(0.5))


@pytest.mark.parametrize(("made", "each"), [([3, 3], "6 synthetic images, nothing picked: 3 of each entity,"),
                                            ([997, 9378], "10,375 synthetic images, nothing picked: 997 to 9,378")])  # fmt: skip
def test_synthetic_images_are_counted(said, made, each):
    assert each in said("03_sample", synthetic=pd.DataFrame({"synthetic_images": made}))


def test_image_quality_stands_beside_its_floors(said):
    audited = [("overall", 49, "kid", 153, 137, 185, -2), ("overall", 49, "recall", 0.06, 0.0, 0.1, 0.93)]
    named = [(name, "overall", 9, 0.9, 9, 0.9) for name in (fidelity.SMALL,)]
    named += [(fidelity.INDEPENDENT, "overall", 140, 0.22, 1140, 0.91)]
    stages = [("real images", "none", 28, -1, -9, 9), ("real 64-pixel images", "upsampler", 28, -3, -12, 16)]
    both = ("lite", "overall", 131, -5, 0.11, 0.8)
    found = said(
        "04_metrics",
        quality_audited=pd.DataFrame(audited, columns=["entity", "n", "metric", "value", "low", "high", "floor"]),
        quality_fidelity=pd.DataFrame(named, columns=["network", "entity", "n", "synthetic", "n_real", "real"]),
        quality_encoders=pd.DataFrame([both], columns=["encoder", "entity", "kid", "floor", "recall", "recall_floor"]),
        quality_cascade=pd.DataFrame(stages, columns=["input", "enlarged_by", "n", "kid", "low", "high"]),
    )
    assert "KID 153 from real test lesions (n = 49; middle 95 % of subsamples 137 to 185), real training" in found
    assert "real training lesions at −2. By lite, on a scale of its own, the two are 131 and −5." in found
    assert "hold 6% of the real variety, real ones 93% (by lite 11% and 80%)." in found
    assert "names 22% of them as asked (n = 140), and 91% of real ones rightly (n = 1,140)." in found
    assert found.endswith("fed with real images, is at KID −3 (n = 28; middle 95 % of halves −12 to 16).")


@pytest.mark.parametrize(("label", "who"), [(workbook.RECONSTRUCTION, "The paper's reader"),
                                            ("readers' own workbook", "The workbook's readers")])  # fmt: skip
def test_whose_answers_were_read_is_said(said, label, who):
    names = ("source, all images", "entity, AI images", "entity, original images")
    table = pd.DataFrame({"what": names, "right": [135, 62, 28], "of": [140, 70, 70], "share": [0.96, 0.89, 0.4]})
    table = table.assign(low=0.92, high=0.98, answers=label)
    found = said("05_dermatologist_study", reader_intervals=table)
    assert found.startswith(
        f"{who} told synthetic from original in 135 of 140 images (0.96, Wilson's 95 % interval 0.92"
    )
    assert "named the entity of 89% of the synthetic ones and of 40% of the originals." in found


def test_the_small_network_stands_beside_always_nevus(said):
    rows = [
        ("as published", "balanced accuracy", 0.66, 0.62, 0.70, 0.14),
        ("audited", "balanced accuracy", 0.42, 0.36, 0.47, 0.14),
    ]
    columns = ["protocol", "metric", "mean", "low", "high", "always_nevus"]
    real, lesions, stopped = training_sets.LADDER[1:4]
    steps = [
        (protocol.KERAS, lesions, 2, -0.05, -0.1, 0.02),
        (protocol.FROZEN, real, 20, 0.02, 0.01, 0.03),
        (protocol.FROZEN, lesions, 20, -0.05, -0.06, -0.04),
        (protocol.FROZEN, stopped, 20, 0.01, -0.01, 0.02),
    ]
    climbed = pd.DataFrame(steps, columns=["network", "step", "seeds", "difference", "low", "high"]).assign(
        measure="balanced accuracy"
    )
    by_area = pd.DataFrame([(protocol.FROZEN, real, 20, 0.005, 0.0003, 0.009, "macro AUC")], columns=climbed.columns)
    of_both = {"classifier_summary": pd.DataFrame(rows, columns=columns)}
    found = said("06_cnn_classifier", **of_both, classifier_ladder=pd.concat([climbed, by_area]))
    assert "0.66 (0.62 to 0.70) as published and of 0.42 (0.36 to 0.47) audited" in found
    assert "over test lesions and 2 seeds; always answering nevus gives 0.14." in found
    assert (
        "(the head on frozen features, 20 seeds), what moves balanced accuracy: tested on real images only "
        "(+0.020, +0.010 to +0.030)" in found
    )
    assert "(−0.050, −0.060 to −0.040); what is not shown to move it: stopped on validation lesions;" in found
    assert found.endswith("what moves macro AUC: tested on real images only (+0.005, +0.0003 to +0.009).")
    alone = said("06_cnn_classifier", classifier_ladder=climbed.query("network == 'Keras CNN'"))
    assert alone.endswith(
        "(the small network, 2 seeds), what is not shown to move balanced accuracy: no lesion on both sides."
    )
    assert said("06_cnn_classifier", classifier_ladder=climbed.assign(low=float("nan"))).endswith("nevus gives 0.14.")


@pytest.mark.parametrize(("difference", "verb"), [(-0.009, "falls by 0.009"), (0.009, "rises by 0.009")])
def test_the_trial_is_answered_in_the_protocols_words(said, difference, verb):
    low, high = sorted((difference / 2, 1.5 * difference))
    row = {
        "comparison": "synthetic against repeated originals",
        "measure": "macro AUC",
        "difference": difference,
        "low": low,
    }
    row |= {
        "high": high,
        "p": 0.001,
        "p_holm": 0.001,
        "missing": 0,
        "margin": 0.015,
        "seeds": 10,
        "role": protocol.PRIMARY,
    }
    row["verdict"] = "harms" if difference < 0 else "helps"
    assert verb in said("07_ablation", trial=pd.DataFrame([row]))
    control = row | {"comparison": "all originals against the 30 % subset", "role": protocol.CONTROL}
    missed = said("07_ablation", trial=pd.DataFrame([row, control | {"verdict": "not resolved"}]))
    assert "The positive control is missed, so the trial has no power" in missed
    assert "control" not in said("07_ablation", trial=pd.DataFrame([row, control | {"verdict": "helps"}]))
