"""Training sets keep their promises: what each holds, in which shares, and that no lesion is on both sides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from small_trial import images_of, in_place_of_synthetic

from dermstudy.classification import protocol, recipes
from dermstudy.classification import training_sets as sets
from dermstudy.classification.recipes import make_training_set
from dermstudy.data.dataset import Cohort
from dermstudy.entities import CODES
from dermstudy.files import InputError

COUNTS = dict(zip(CODES, (60, 280, 20, 60, 24, 8, 10), strict=True))
TRIAL = tuple(sets.COMPOSITIONS)


@pytest.fixture(scope="module")
def images() -> sets.Images:
    """Training images, two a lesion, a validation and a test image of each entity, and of each generator more than is taken."""
    rows = [
        {"image_id": f"{code}_{i:03d}", "dx": code, "group": f"{code}_lesion_{i // 2}", "split": "train",
         "subset": i // 2 < 0.3 * count / 2}
        for code, count in COUNTS.items() for i in range(count)
    ] + [
        {"image_id": f"{code}_{split}", "dx": code, "group": f"{code}_{split}", "split": split, "subset": False}
        for code in COUNTS for split in ("validation", "test")
    ]  # fmt: skip
    originals = pd.DataFrame(rows).sample(frac=1, random_state=0).reset_index(drop=True)
    train = originals[originals["split"] == "train"]
    pools = {sets.WHOLE: train, sets.SECOND: train, sets.OWN: train[train["subset"]]}
    made = {}
    for pool, sources in pools.items():
        rows = [
            {"image_id": f"{image_id}_seed{i}", "dx": dx, "source_image_id": image_id}
            for image_id, dx in sources[["image_id", "dx"]].itertuples(index=False)
            for i in range(2 if dx in ("nv", "mel", "bkl") else 10)
        ]
        made[pool] = Cohort(pool, None, pd.DataFrame(rows), pool)
    return sets.Images(Cohort("originals", None, originals, "o"), made)


def counts(rows: pd.DataFrame) -> dict[str, int]:
    return rows["dx"].value_counts().reindex(CODES, fill_value=0).to_dict()


def added(name: str, images: sets.Images, pool: str = sets.WHOLE) -> pd.DataFrame:
    rows = make_training_set(name, images).train
    return rows[rows["pool"] == pool]


@pytest.mark.parametrize("name", TRIAL)
def test_a_set_holds_what_its_generator_learned_from_and_no_held_out_lesion(images, name):
    originals, chosen = images.originals.frame, make_training_set(name, images)
    train = set(originals.loc[originals["split"] == "train", "image_id"])
    rows, subset = chosen.train, set(originals.loc[originals["subset"], "image_id"])
    expected = set() if name == "synthetic only" else subset if chosen.composition.subset else train
    assert set(rows.loc[rows["pool"] == sets.ORIGINALS, "image_id"]) == expected
    assert not set(rows["group"]) & (set(chosen.tested["group"]) | set(chosen.watched["group"]))
    assert set(chosen.watched["split"]) == {"validation"} and set(chosen.tested["split"]) == {"validation", "test"}
    for pool, own in rows.groupby("pool"):
        frame = images.pools[pool].frame
        assert list(frame["image_id"].iloc[own["place"]]) == list(own["image_id"])


def test_doses_add_the_originals_own_shares_and_are_nested(images):
    taken = {}
    for dose in ("0.5", "1", "2"):
        made = added(f"all originals + synthetic, dose {dose}", images)
        assert counts(made) == {code: float(dose) * count for code, count in COUNTS.items()}
        taken[dose] = set(made["image_id"])
        assert dose != "1" or made["source_image_id"].is_unique  # every caption lends itself once
    assert taken["0.5"] < taken["1"] < taken["2"]


def test_balanced_and_rare_only(images):
    balanced, rare = added(protocol.BALANCED, images), added(protocol.RARE_ONLY, images)
    each = round(sum(COUNTS.values()) / 7)
    assert counts(balanced) == dict.fromkeys(CODES, each) and set(rare["image_id"]) < set(balanced["image_id"])
    assert counts(rare) == {code: each if code in protocol.RARE else 0 for code in CODES}


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_a_control_has_the_number_and_prior_of_what_it_stands_for(images, seed):
    once, repeated, longer = (
        make_training_set(name, images) for name in (protocol.ONCE, protocol.REPEATED, protocol.LONGER)
    )
    assert len(repeated.seen) == len(once.train) == longer.images_per_epoch == 2 * len(longer.train)
    np.testing.assert_allclose(once.prior(once.weights(seed)), repeated.prior(repeated.weights(seed)))
    balanced, control = (make_training_set(name, images) for name in (protocol.BALANCED, protocol.REPEATED_BALANCED))
    np.testing.assert_allclose(balanced.prior(), control.prior())


def test_losses_and_repetitions_set_the_prior(images):
    natural = np.array([COUNTS[code] for code in CODES]) / sum(COUNTS.values())
    for name in (protocol.ORIGINALS, protocol.LOGIT_ADJUSTMENT):
        np.testing.assert_allclose(make_training_set(name, images).prior(), natural)
    for name in (protocol.CLASS_WEIGHTS, protocol.OVERSAMPLING):
        np.testing.assert_allclose(make_training_set(name, images).prior(), np.full(7, 1 / 7), err_msg=name)
    weighted = make_training_set(protocol.CLASS_WEIGHTS, images)
    np.testing.assert_allclose(weighted.prior(weighted.weights(3)), np.full(7, 1 / 7))


def test_a_seed_draws_whole_lesions_the_same_for_every_training_set(images):
    drawn = []
    for name in (protocol.ORIGINALS, protocol.ONCE):
        own = make_training_set(name, images)
        by_lesion = pd.Series(own.weights(5), index=own.train["group"]).groupby(level=0)
        assert (by_lesion.nunique() == 1).all()  # all images of a lesion, and all made for it, alike
        drawn.append(by_lesion.first() / by_lesion.first().max())
        assert not np.array_equal(own.weights(5), own.weights(6)) and own.weights(5).sum() == pytest.approx(1)
    pd.testing.assert_series_equal(*drawn)


def test_lesions_are_resampled_within_each_entity_as_a_bootstrap_varies(images):
    rows = make_training_set(protocol.ORIGINALS, images).train
    lesions = rows.drop_duplicates("group").set_index("group")["dx"]
    drawn = pd.DataFrame({seed: sets.lesion_weights(rows, seed) for seed in range(200)})
    sums = drawn.groupby(lesions).sum()
    for code, count in lesions.value_counts().items():
        np.testing.assert_allclose(sums.loc[code], count)
    spread = drawn[lesions.reindex(drawn.index) == "nv"].to_numpy().std()
    assert spread == pytest.approx(1, abs=0.05)  # of a count in a bootstrap: 1 - 1/n


def test_what_is_needed_is_what_is_taken(images):
    needed = recipes.needed_of(images.originals.frame, sets.WHOLE)
    assert needed["nv"] == 2 * COUNTS["nv"] and needed["df"] == 66
    own = recipes.needed_of(images.originals.frame, sets.OWN)
    assert counts(added(protocol.SUBSET_OWN, images, sets.OWN)) == own.to_dict()
    with pytest.raises(InputError, match="no pool 'trial' of synthetic images in the trial: choose among generator"):
        recipes.needed_of(images.originals.frame, "trial")


def test_what_cannot_be_made_is_named_and_left_out(images):
    whole = images.synthetic[sets.WHOLE]
    short = replace(images, synthetic={sets.WHOLE: replace(whole, frame=whole.frame.query("dx != 'df'"))})
    cases = {
        "all": "unknown training set 'all'",
        protocol.ONCE: "takes 8 synthetic images of dermatofibroma .* 0 are there: sample more",
        protocol.SECOND: "needs synthetic images of the second generator: sample them first",
    }
    for name, said in cases.items():
        with pytest.raises(InputError, match=said):
            make_training_set(name, short)
    kept, reasons = recipes.allowed_sets([protocol.ORIGINALS, protocol.STRONGER, protocol.SECOND], short)
    assert list(kept) == [protocol.ORIGINALS] and list(reasons) == [protocol.STRONGER, protocol.SECOND]
    assert "no augmented view" in reasons[protocol.STRONGER]
    frame = images.originals.frame
    bare = replace(images, originals=replace(images.originals, frame=frame[frame["dx"] != "mel"]))
    with pytest.raises(InputError, match="all originals: no training image of melanoma"):
        make_training_set(protocol.ORIGINALS, bare)


def test_a_small_run_trains_on_the_originals_that_lent_a_caption(cohort):
    made = in_place_of_synthetic(cohort, 3)
    pools = {sets.WHOLE: made, sets.SECOND: None}
    images = sets.gather(cohort, pools, sets.CAPTIONED)
    train = images.originals.select(split="train").frame
    assert set(train["image_id"]) == set(made.frame["source_image_id"]) and list(images.synthetic) == ["generator"]
    assert train["subset"].groupby(train["dx"]).sum().between(1, 2).all()
    own = sets.gather(replace(cohort, frame=cohort.frame.assign(subset=False)), pools)
    assert not own.originals.frame["subset"].any() and len(own.originals) == len(cohort)  # the cohort's own column
    with pytest.raises(InputError, match="ORIGINALS is 'some': give 'all', or 'captioned'"):
        sets.gather(cohort, pools, "some")
    elsewhere = replace(made, frame=made.frame.assign(source_image_id="none"))
    with pytest.raises(InputError, match="no training original lent a synthetic image its caption"):
        sets.gather(cohort, {sets.WHOLE: elsewhere}, sets.CAPTIONED)


# As published, and the ladder


def test_the_published_set_mixes_and_watches_its_test_set(cohort):
    images = images_of(cohort)
    chosen = make_training_set("as published, combined", images)
    assert chosen.watched is chosen.tested and set(chosen.tested["split"]) == {"original", "synthetic"}
    whole = len(cohort) + len(images.synthetic[sets.SAW_ALL])
    assert len(chosen.train) + len(chosen.tested) == whole and abs(len(chosen.tested) / whole - 0.2) < 0.01
    assert not set(chosen.train["image_id"]) & set(chosen.tested["image_id"])
    twice = replace(images, synthetic={sets.SAW_ALL: in_place_of_synthetic(cohort, times=3)})
    taken = recipes.one_an_original(twice, sets.SAW_ALL)
    train = cohort.frame[cohort.frame["split"] == "train"]
    assert sorted(taken["source_image_id"]) == sorted(train["image_id"]) and taken["place"].is_monotonic_increasing
    without = replace(images, originals=images.originals.select(dx=[code for code in CODES if code != "df"]))
    with pytest.raises(InputError, match="as published, original: no train image of dermatofibroma"):
        make_training_set("as published, original", without)


def test_each_step_of_the_ladder_changes_one_thing(cohort):
    """What a step trains on (originals, synthetic images), is tested on and stops on: one of them moves, and what hangs on it."""
    images = images_of(cohort)
    steps = [make_training_set(name, images) for name in sets.STEPS]

    def parts(chosen: sets.TrainingSet) -> dict[str, object]:
        rows, test = chosen.train, chosen.tested
        watched = set(chosen.watched["image_id"])
        return {
            "originals": set(rows.loc[rows["pool"] == sets.ORIGINALS, "image_id"]),
            "synthetic images": set(rows.loc[rows["pool"] != sets.ORIGINALS, "image_id"]),
            "generator": set(rows["pool"]) - {sets.ORIGINALS}, "test kinds": set(test["split"]),
            "real test images": set(test.loc[test["pool"] == sets.ORIGINALS, "image_id"]),
            "stopping": "its test set" if watched == set(test["image_id"]) else watched,
        }  # fmt: skip

    held = [parts(chosen) for chosen in steps]
    changed = [{key for key in now if now[key] != before[key]} for before, now in zip(held, held[1:], strict=False)]
    assert changed == [{"test kinds"}, {"originals", "real test images"}, {"stopping"}, {"generator"}]
    assert held[0]["stopping"] == "its test set" and held[1]["test kinds"] == {"original"}
    for chosen in steps:  # the same number of originals of each entity
        numbers = chosen.train.assign(real=chosen.train["pool"] == sets.ORIGINALS).groupby(["real", "dx"]).size()
        assert numbers.equals(
            steps[0].train.assign(real=steps[0].train["pool"] == sets.ORIGINALS).groupby(["real", "dx"]).size()
        )
    assert not set(steps[2].train["group"]) & set(steps[2].tested["group"])
    assert set(steps[3].watched["split"]) == {"validation"}
    partner = images.synthetic[sets.PARTNER]
    fewer = replace(partner, frame=partner.frame.iloc[::2])
    with pytest.raises(InputError, match="the partner's generator lacks .* images of the ladder"):
        make_training_set("ladder, as published", replace(images, synthetic=images.synthetic | {sets.PARTNER: fewer}))
