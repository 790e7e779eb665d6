"""Networks of 04, 06 and 07 compute where torch says. The meta device stands for a GPU: it computes shapes and no numbers.

What reaches its end there was on the device all along: tensors of two devices do not add up.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dermstudy import pretrained
from dermstudy.evaluation import encoders, reference_classifier

IMAGES = np.zeros((2, 64, 64, 3), np.uint8)
NO_NUMBERS = "meta tensor"


@pytest.fixture
def elsewhere(monkeypatch) -> torch.device:
    """The meta device, as the one that torch sees."""
    there = torch.device("meta")
    pretrained.efficientnet.cache_clear()
    for module in (pretrained, encoders, reference_classifier):
        monkeypatch.setattr(module, "device", lambda: there)
    yield there
    pretrained.efficientnet.cache_clear()


@pytest.mark.parametrize("features", [pretrained.pooled_features, pretrained.early_activations])
def test_pretrained_features_are_computed_on_the_device(features, elsewhere, monkeypatch):
    monkeypatch.setattr(pretrained, "_folded", pretrained._folded.__wrapped__)
    with pytest.raises(RuntimeError, match=NO_NUMBERS):
        features(IMAGES)


def test_inception_is_given_its_images_on_the_device(elsewhere, monkeypatch):
    given = []

    def network(pixels):
        given.append(pixels.device)
        return torch.zeros((len(pixels), 2048))

    monkeypatch.setattr(encoders, "fid_inception", lambda: network)
    assert encoders.fid_inception_features(IMAGES).shape == (2, 2048) and given == [elsewhere]


def test_the_network_that_names_entities_trains_on_the_device(elsewhere, cohort, tmp_path):
    sides = cohort.select(split="train"), cohort.select(split="validation")
    with pytest.raises(RuntimeError, match=NO_NUMBERS):
        reference_classifier.train(*sides, tmp_path / "reference", steps=1)
    assert not (tmp_path / "reference").exists()
