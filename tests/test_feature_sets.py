import numpy as np
import pandas as pd
import pytest

from dermstudy.classification import feature_sets as sets
from dermstudy.entities import CODES
from dermstudy.files import InputError

COUNTS = dict(zip(CODES, (60, 280, 20, 60, 24, 8, 10), strict=True))


@pytest.fixture(scope="module")
def originals() -> pd.DataFrame:
    """Training images, two a lesion, and a validation and a test image of each entity."""
    rows = []
    for code, count in COUNTS.items():
        rows += [
            {"image_id": f"{code}_{i:03d}", "dx": code, "group": f"{code}_lesion_{i // 2}", "split": "train",
             "subset": i // 2 < 0.3 * count / 2}
            for i in range(count)
        ]  # fmt: skip
        rows += [
            {"image_id": f"{code}_{split}", "dx": code, "group": f"{code}_{split}", "split": split, "subset": False}
            for split in ("validation", "test")
        ]
    return pd.DataFrame(rows).sample(frac=1, random_state=0).reset_index(drop=True)


@pytest.fixture(scope="module")
def synthetic(originals) -> dict[str, pd.DataFrame]:
    """Of each generator as many images as `needed` says and more, every caption as often as any other."""
    train = originals[originals["split"] == "train"]
    pools = {sets.WHOLE: train, sets.SECOND: train, sets.OWN: train[train["subset"]]}
    made = {}
    for pool, sources in pools.items():
        rows = [
            {"image_id": f"{image_id}_seed{i}", "dx": dx, "source_image_id": image_id}
            for image_id, dx in sources[["image_id", "dx"]].itertuples(index=False)
            for i in range(2 if dx in ("nv", "mel", "bkl") else 10)
        ]
        made[pool] = pd.DataFrame(rows)
    return made


def counts(rows: pd.DataFrame) -> dict[str, int]:
    return rows["dx"].value_counts().reindex(CODES, fill_value=0).to_dict()


def test_every_training_set_holds_what_its_generator_learned_from(originals, synthetic):
    train = set(originals.loc[originals["split"] == "train", "image_id"])
    subset = set(originals.loc[originals["subset"], "image_id"])
    for name, composition in sets.TRAINING_SETS.items():
        rows = sets.make_feature_set(name, originals, synthetic).rows
        held = set(rows.loc[rows["pool"] == sets.ORIGINALS, "image_id"])
        assert held == (set() if name == "synthetic only" else subset if composition.subset else train), name
        assert set(rows["group"]) <= set(originals.loc[originals["image_id"].isin(train), "group"]), name
        for pool, own in rows.groupby("pool"):
            frame = originals if pool == sets.ORIGINALS else synthetic[pool]
            assert list(frame["image_id"].iloc[own["place"]]) == list(own["image_id"])
            assert list(frame["dx"].iloc[own["place"]]) == list(own["dx"])


def test_doses_add_the_originals_own_shares_and_are_nested(originals, synthetic):
    taken = {}
    for dose in ("0.5", "1", "2"):
        rows = sets.make_feature_set(f"all originals + synthetic, dose {dose}", originals, synthetic).rows
        made = rows[rows["pool"] == sets.WHOLE]
        assert counts(made) == {code: float(dose) * count for code, count in COUNTS.items()}
        taken[dose] = set(made["image_id"])
        if dose == "1":  # every caption lends itself once
            sources = synthetic[sets.WHOLE]["source_image_id"].iloc[made["place"]]
            assert sources.is_unique
    assert taken["0.5"] < taken["1"] < taken["2"]


def test_balanced_and_rare_only(originals, synthetic):
    balanced = sets.make_feature_set("all originals + balanced synthetic, dose 1", originals, synthetic).rows
    rare = sets.make_feature_set("all originals + synthetic of rare entities, dose 1", originals, synthetic).rows
    each = round(sum(COUNTS.values()) / 7)
    assert counts(balanced[balanced["pool"] == sets.WHOLE]) == dict.fromkeys(CODES, each)
    expected = {code: each if code in sets.RARE else 0 for code in CODES}
    assert counts(rare[rare["pool"] == sets.WHOLE]) == expected
    assert set(rare["image_id"]) < set(balanced["image_id"])


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_the_control_of_the_primary_comparison_has_its_number_and_prior(originals, synthetic, seed):
    made = sets.make_feature_set("all originals + synthetic, dose 1", originals, synthetic)
    repeated = sets.make_feature_set("all originals + repeated originals, dose 1", originals, synthetic)
    assert repeated.rows["repetitions"].sum() == len(made.rows) == 2 * sum(COUNTS.values())
    np.testing.assert_allclose(made.prior(made.weights(seed)), repeated.prior(repeated.weights(seed)))
    balanced = sets.make_feature_set("all originals + balanced synthetic, dose 1", originals, synthetic)
    control = sets.make_feature_set("all originals + balanced repeated originals, dose 1", originals, synthetic)
    np.testing.assert_allclose(balanced.prior(balanced.weights()), control.prior(control.weights()))


def test_losses_and_repetitions_set_the_prior(originals):
    natural = np.array([COUNTS[code] for code in CODES]) / sum(COUNTS.values())
    plain = sets.make_feature_set("all originals", originals)
    np.testing.assert_allclose(plain.prior(plain.weights()), natural)
    for name in ("class weights", "logit adjustment", "oversampling"):
        chosen = sets.make_feature_set(name, originals)
        np.testing.assert_allclose(chosen.prior(chosen.weights()), np.full(7, 1 / 7), err_msg=name)
    adjusted = sets.make_feature_set("logit adjustment", originals)
    np.testing.assert_allclose(adjusted.seen_prior(adjusted.weights()), natural)
    weighted = sets.make_feature_set("class weights", originals)
    np.testing.assert_allclose(weighted.prior(weighted.weights(3)), np.full(7, 1 / 7))


def test_a_seed_draws_whole_lesions_the_same_for_every_training_set(originals, synthetic):
    plain = sets.make_feature_set("all originals", originals)
    made = sets.make_feature_set("all originals + synthetic, dose 1", originals, synthetic)
    drawn = {}
    for own in (plain, made):
        weights = pd.Series(own.weights(5), index=own.rows["group"])
        by_lesion = weights.groupby(level=0)
        assert (by_lesion.nunique() == 1).all()  # all images of a lesion, and all made for it, alike
        drawn[own.name] = by_lesion.first() / by_lesion.first().max()
    pd.testing.assert_series_equal(*drawn.values())
    assert not np.array_equal(plain.weights(5), plain.weights(6))
    np.testing.assert_allclose(plain.weights(5).sum(), 1)


def test_lesions_are_resampled_within_each_entity_as_a_bootstrap_varies(originals):
    rows = originals[originals["split"] == "train"]
    lesions = rows.drop_duplicates("group").set_index("group")["dx"]
    drawn = pd.DataFrame({seed: sets.lesion_weights(rows, seed) for seed in range(200)})
    sums = drawn.groupby(lesions).sum()
    for code, count in lesions.value_counts().items():
        np.testing.assert_allclose(sums.loc[code], count)
    spread = drawn[lesions.reindex(drawn.index) == "nv"].to_numpy().std()
    assert spread == pytest.approx(1, abs=0.05)  # of a count in a bootstrap: 1 - 1/n


def test_needed_is_what_is_taken(originals, synthetic):
    needed = sets.needed(originals)
    assert needed.loc["nv", sets.WHOLE] == 2 * COUNTS["nv"] and needed.loc["df", sets.WHOLE] == 66
    taken = sets.make_feature_set("30 % subset + synthetic of its own generator, dose 1", originals, synthetic).rows
    assert counts(taken[taken["pool"] == sets.OWN]) == needed[sets.OWN].to_dict()
    short = {**synthetic, sets.WHOLE: synthetic[sets.WHOLE].query("dx != 'df'")}
    with pytest.raises(InputError, match="takes 8 synthetic images of dermatofibroma .* 0 are there: sample more"):
        sets.make_feature_set("all originals + synthetic, dose 1", originals, short)


def test_a_pool_is_asked_for_by_its_name(originals):
    assert sets.needed_of(originals, sets.OWN).equals(sets.needed(originals)[sets.OWN])
    with pytest.raises(InputError, match="no pool 'trial' of synthetic images in the trial: choose among generator"):
        sets.needed_of(originals, "trial")


def test_what_cannot_be_made_is_named(originals):
    with pytest.raises(InputError, match="unknown training set 'all'"):
        sets.make_feature_set("all", originals)
    with pytest.raises(InputError, match="needs synthetic images of the generator: sample them first"):
        sets.make_feature_set("synthetic only", originals)
    with pytest.raises(InputError, match="no training image of melanoma"):
        sets.make_feature_set("all originals", originals[originals["dx"] != "mel"])
