"""06's ladder: what each step is worth to two networks, and over what its intervals are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_classifier import in_place_of_synthetic

from dermstudy import intervals
from dermstudy.classification import classifier_files, forest, inference, ladder, predictions, protocol, training_sets
from dermstudy.classification.encoding import Settings, View
from dermstudy.classification.predictions import Predictions
from dermstudy.data import splits
from dermstudy.entities import CODES
from dermstudy.files import sha256_text

SETTINGS = Settings((View(32),), ("block 15",), 6)
BALANCED, AREA = ladder.MEASURES


@pytest.fixture(scope="module")
def originals(cohort):
    return replace(cohort, frame=cohort.frame.assign(subset=splits.nested_subset(cohort.frame, 0)))


@pytest.fixture(scope="module")
def steps(originals):
    made = in_place_of_synthetic(originals.frame, originals.root)
    partner = replace(made, data_hash="partner")
    return training_sets.ladder(originals, made, partner, 0), (originals, made, partner)


@pytest.fixture
def told_by_entity(monkeypatch):
    """Features that hold the entity and noise of the image, the sister images of a lesion alike; counts the encodings."""
    encoded = []

    def encode(cohort, cache, view):
        encoded.append(cohort.data_hash)
        rows = []
        for row in cohort.frame.itertuples():
            seed = int(sha256_text(getattr(row, "lesion_id", None) or row.image_id)[:8], 16)
            rows.append(
                np.random.default_rng(seed).normal(size=6246) + 0.4 * (np.arange(6246) % 7 == CODES.index(row.dx))
            )
        return np.stack(rows).astype(np.float16)

    monkeypatch.setattr(ladder, "encode", encode)
    return encoded


def made_up(
    images: pd.DataFrame, skill: float, seeds: int, network: str = protocol.KERAS, first: int = 0
) -> Predictions:
    """Answers that are right the oftener the greater `skill`, each seed with noise of its own."""
    right = np.array([np.array(CODES) == code for code in images["dx"]], float)
    scores = np.stack(
        [skill * right + np.random.default_rng([first + seed, 5]).normal(size=right.shape) for seed in range(seeds)]
    )
    logs = scores - np.log(np.exp(scores).sum(axis=2, keepdims=True))
    ran = pd.DataFrame({"network": network, "training_set": "x", "seed": range(seeds)})
    return Predictions(images, ran, np.full((seeds, 7), 1 / 7), logs.astype(np.float32))


def test_the_head_climbs_every_step_and_keeps_them(steps, told_by_entity, tmp_path, capsys):
    sets, cohorts = steps
    climbed = ladder.frozen_runs(sets, cohorts, SETTINGS, range(3), tmp_path / "cache")
    assert list(climbed) == list(training_sets.LADDER) and len(told_by_entity) == 3
    for name, own in climbed.items():
        shown = sets[name].rows("test")
        assert own.images["image_id"].tolist() == shown["image_id"].tolist() and own.runs["seed"].tolist() == [0, 1, 2]
        assert set(own.images["split"]) == set(shown["kind"])
    first, second = climbed["as published"], climbed["tested on real images only"]
    real = first.images["split"].eq("original").to_numpy()
    # both learned from the same images; the penalty, chosen on the test set, is what may differ
    assert np.corrcoef(first.log_probabilities[0, real].ravel(), second.log_probabilities[0].ravel())[0, 1] > 0.98
    said = capsys.readouterr().out
    assert said.count("3 seeds") == 5
    again = ladder.frozen_runs(sets, cohorts, SETTINGS, range(3), tmp_path / "cache")
    assert "seeds" not in capsys.readouterr().out
    assert all(np.array_equal(again[name].log_probabilities, own.log_probabilities) for name, own in climbed.items())
    assert ladder.frozen_runs(sets, cohorts, SETTINGS, range(0), tmp_path / "cache") == {}


def test_what_was_saved_is_loaded_with_the_trials_own_set_at_the_end(steps, told_by_entity, tmp_path):
    sets, cohorts = steps
    for name, chosen in sets.items():
        shown = ladder._shown(chosen, "test")
        predictions.save(made_up(shown, 1.0, 2), ladder._path(tmp_path, protocol.KERAS, name))
    audited = cohorts[0].frame.query("split != 'train'").reset_index(drop=True)[list(predictions.IMAGE_COLUMNS)]
    predictions.save(made_up(audited, 1.0, 2), classifier_files._path(tmp_path, "classifier", "audited"))
    found = ladder.load(tmp_path)
    assert list(found) == [protocol.KERAS] and list(found[protocol.KERAS]) == [*training_sets.LADDER, ladder.OWN_SET]
    assert set(found[protocol.KERAS][ladder.OWN_SET].images["split"]) == {"test"}
    broken = made_up(ladder._shown(sets["as published"], "test"), 1.0, 2)
    broken.log_probabilities[1] = np.nan
    predictions.save(broken, ladder._path(tmp_path, protocol.KERAS, "as published"))
    assert all(own.runs["seed"].tolist() == [0] for own in ladder.load(tmp_path)[protocol.KERAS].values())
    ladder.save(tmp_path, ladder.frozen_runs(sets, cohorts, SETTINGS, range(2), tmp_path / "cache"))
    found = ladder.load(tmp_path)
    assert list(found[protocol.FROZEN]) == list(training_sets.LADDER)
    table, each = ladder.table(found), ladder.by_seed(found)
    assert len(table) == 2 * 6 + 2 * 5 and len(forest.ladder_plot(table, each).axes) == 2
    ladder.save(tmp_path, {})
    assert list(ladder.load(tmp_path)) == [protocol.KERAS]


def of_lesions(count: int, each: int, kind: str, lesion: str) -> pd.DataFrame:
    rows = [(f"{kind}{lesion}{n}-{k}", f"{lesion}{n}", CODES[n % 7], kind) for n in range(count) for k in range(each)]
    return pd.DataFrame(rows, columns=list(predictions.IMAGE_COLUMNS))


def test_a_change_pairs_the_lesions_that_both_tests_share():
    real = of_lesions(140, 2, "original", "lesion")
    pooled = pd.concat([real, of_lesions(140, 1, "synthetic", "lesion")], ignore_index=True)
    after, before = made_up(real, 1.2, 4), made_up(pooled, 1.2, 4)
    before.log_probabilities[:, : len(real)] = after.log_probabilities  # the same network, asked about more images
    for measure in ladder.MEASURES:
        shared = ladder.change_of(after, before, measure)
        apart = ladder.change_of(after, replace(before, images=pooled.assign(group="other" + pooled["group"])), measure)
        assert shared.difference == pytest.approx(apart.difference) and shared.standard_error < apart.standard_error
        nothing = ladder.change_of(after, after, measure)
        assert nothing.difference == 0 and nothing.high - nothing.low < 1e-6
        assert nothing.low <= 0 <= nothing.high


@pytest.mark.parametrize("seeds", [1, 5])
def test_the_standard_error_is_that_of_resampled_lesions_and_seeds(seeds):
    images = of_lesions(210, 2, "original", "lesion")
    after, before = made_up(images, 1.4, seeds), made_up(images, 1.0, seeds, first=50)
    found = ladder.change_of(after, before, BALANCED)
    frames = []
    for own in (after, before):
        answers = np.array(CODES)[own.log_probabilities.argmax(axis=2)]
        frames.append([images.assign(answer=answer) for answer in answers])

    def recall(rows):
        return (rows["dx"] == rows["answer"]).groupby(rows["dx"].to_numpy()).mean().mean()

    drawn = intervals.paired_difference(*frames, recall, 300, 0)
    assert found.difference == pytest.approx(drawn["difference"])
    assert (found.high - found.low) / 2 == pytest.approx(drawn["detectable"], rel=0.4)
    assert found.p < 0.05


def test_an_entity_of_one_lesion_has_no_interval():
    images = pd.concat(
        [of_lesions(21, 2, "original", "a").query("dx != 'df'"), of_lesions(7, 3, "original", "b").query("dx == 'df'")]
    )
    images = images.reset_index(drop=True)
    found = {
        protocol.KERAS: {"as published": made_up(images, 1.0, 2), "tested on real images only": made_up(images, 2.0, 2)}
    }
    table = ladder.table(found).query("step == 'tested on real images only'")
    assert table["difference"].notna().all() and table[["low", "high", "p"]].isna().all(axis=None)


def test_values_are_those_of_other_code(steps):
    from sklearn.metrics import balanced_accuracy_score, roc_auc_score

    images = of_lesions(70, 2, "original", "lesion")
    own = made_up(images, 1.0, 2)
    answers = np.array(CODES)[own.log_probabilities.argmax(axis=2)]
    assert ladder._values(own, BALANCED) == pytest.approx([balanced_accuracy_score(images["dx"], a) for a in answers])
    areas = [
        np.mean([roc_auc_score(images["dx"] == code, run[:, place]) for place, code in enumerate(CODES)])
        for run in own.corrected()
    ]
    assert ladder._values(own, AREA) == pytest.approx(areas)
    lesions = inference.lesions_of(images)
    assert ladder._measured(own, BALANCED, lesions)[1].sum(axis=1) == pytest.approx(0, abs=1e-9)
