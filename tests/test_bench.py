"""The benchmark command: a line in place of what it cannot measure. Speeds themselves are no tests."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dermstudy.maintenance import glide_speed, mini_speed


def test_without_a_copy_of_upstream_a_line_says_so(monkeypatch, capsys, tmp_path):
    for folder in (None, "", str(tmp_path)):
        monkeypatch.delenv("GLIDE_TEXT2IM", raising=False)
        if folder is not None:
            monkeypatch.setenv("GLIDE_TEXT2IM", folder)
        assert glide_speed.main(["--images", "0"]) == 0
        assert "GLIDE skipped: set GLIDE_TEXT2IM" in capsys.readouterr().out


@pytest.mark.slow
def test_feature_rates_name_what_was_measured(capsys):
    glide_speed.feature_rates(images=2)
    output = capsys.readouterr().out
    assert "FID-Inception features:" in output and "from 2 images measured" in output


@pytest.mark.slow
def test_limits_count_the_network_and_name_every_case(capsys, monkeypatch):
    assert glide_speed.operations("base", 2) == pytest.approx(2 * glide_speed.operations("base", 1), rel=1e-3)
    monkeypatch.setattr(glide_speed, "matrix_rate", lambda: 1e12)
    glide_speed.limits()
    lines = capsys.readouterr().out.strip().splitlines()
    assert [line[:24].strip() for line in lines[1:]] == list(glide_speed.CASES)
    assert all(float(line.split()[-1]) == pytest.approx(float(line.split()[-2]) / 1000, abs=0.01) for line in lines[1:])


def test_a_layer_is_as_many_products_as_it_makes():
    model = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, stride=2), nn.Flatten(2), nn.Linear(9, 5))
    shapes = mini_speed.products(model, lambda: model(torch.zeros(2, 4, 6, 6)))
    assert shapes == {(2 * 3 * 3, 4 * 3 * 3, 8): 1, (2 * 8, 9, 5): 1}
    assert not model[0]._forward_hooks
