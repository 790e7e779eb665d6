"""One fit for every network: attempts, failed runs, and what a kept run is known by."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from small_trial import images_of

from dermstudy.classification import fitting, protocol
from dermstudy.classification.predictions import Predictions
from dermstudy.classification.recipes import make_training_set
from dermstudy.files import InputError


class Guess:
    """A network that answers at random, after the errors that are asked for."""

    name = protocol.KERAS

    def __init__(self, images, folder):
        self.images, self.folder, self.settings, self.seen, self.errors = images, folder, {}, [], {}

    def fit(self, chosen, seed):
        self.seen.append(seed)
        if len(self.seen) in self.errors:
            raise self.errors[len(self.seen)]
        values = np.random.default_rng(seed).dirichlet(np.ones(7), (1, len(chosen.images)))
        runs = pd.DataFrame({"network": [self.name], "training_set": [chosen.name], "seed": [seed]})
        found = Predictions(chosen.images, runs, chosen.prior()[None], np.log(values).astype(np.float32))
        return found, pd.DataFrame({"epoch": [1, 2], "loss": [1 / 3, np.nan]})


@pytest.fixture
def network(cohort, tmp_path):
    return Guess(images_of(cohort, 3), tmp_path)


@pytest.fixture
def chosen(network):
    return make_training_set(protocol.ORIGINALS, network.images)


def test_a_run_is_kept_as_it_was(network, chosen):
    first, record = fitting.fit(network, chosen, 3)
    again, kept = fitting.fit(network, chosen, 3)
    assert network.seen == [3] and again.images.equals(chosen.images)
    assert np.array_equal(first.log_probabilities, again.log_probabilities)
    pd.testing.assert_frame_equal(record, kept)
    assert kept["loss"][0] == pytest.approx(1 / 3, abs=1e-14) and np.isnan(kept["loss"][1])
    runs = fitting.fit_all(network, {"a": chosen}, [3, 4])
    assert [run.runs["seed"][0] for run, _ in runs["a"]] == [3, 4] and network.seen == [3, 4]


def test_a_run_is_known_by_all_that_makes_it(network, chosen):
    other = Guess(network.images, network.folder)
    other.settings = {"epochs": 2}
    moved = replace(chosen, watched=chosen.tested)
    images = replace(network.images, originals=replace(network.images.originals, data_hash="other images"))
    asked = [(network, chosen, 0), (network, chosen, 1), (other, chosen, 0), (network, moved, 0)]
    asked += [(Guess(images, network.folder), chosen, 0), (network, replace(chosen, images_per_epoch=9), 0)]
    assert len({fitting.kept_run(*one) for one in asked}) == len(asked)
    pools = network.images.synthetic | {"second generator": network.images.synthetic["generator"]}
    later = Guess(replace(network.images, synthetic=pools), network.folder)  # a pool that the set does not learn from
    assert fitting.kept_run(later, chosen, 0) == fitting.kept_run(network, chosen, 0)


def test_a_run_that_ends_in_an_error_has_three_attempts_with_its_own_seed(network, chosen, capsys):
    network.errors = {1: ValueError("not\nfinite"), 2: RuntimeError("again")}
    assert fitting.fit(network, chosen, 7)[0].sound.all() and network.seen == [7, 7, 7]
    assert "seed 7: attempt 1 of 3 not finished, ValueError: not finite" in capsys.readouterr().out
    network.seen.clear()
    network.errors[3] = ValueError("and again")
    for _ in range(2):  # it is not tried again
        failed, record = fitting.fit(network, chosen, 8)
        assert not failed.sound.any() and network.seen == [8, 8, 8] and record.empty


def test_what_came_from_outside_is_no_attempt(network, chosen):
    full = type("ResourceExhaustedError", (Exception,), {})("OOM")  # TensorFlow's, which needs an operation to be made
    torchs = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    for outside in (OSError("no space left"), MemoryError(), InputError("no images"), full, torchs):
        network.seen.clear()
        network.errors = {1: outside}
        with pytest.raises(type(outside)):
            fitting.fit(network, chosen, 9)
        assert network.seen == [9]
