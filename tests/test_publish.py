"""Weights to pass on: diffusers opens them without the study's package, and they paint what the helper paints."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
from conftest import ROOT

from dermstudy import weight_files
from dermstudy.diffusion import glide
from dermstudy_commands import cli, publish

MINI = ROOT / "weights" / "glide-mini"
ALONE = """
import sys
class Blocked:
    def find_spec(self, name, *more):
        if name.split(".")[0] in ("dermstudy", "dermstudy_commands"):
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
import numpy as np
from diffusers import DiffusionPipeline
stages = []
for folder in sys.argv[2:]:
    stages.append(DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder + "/..", trust_remote_code=True))
base, upsampler = stages
small = base("melanoma", 1, 1.5, "2", seeds=[3])
np.savez(sys.argv[1], small=small, large=upsampler("melanoma", small, num_inference_steps="1", seeds=[3]))
"""


def test_diffusers_opens_the_shipped_weights_without_the_study_and_paints_the_same(tmp_path):
    folders, out = [str(MINI / stage) for stage in ("base", "upsampler")], tmp_path / "images.npz"
    surroundings = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": "", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", ALONE, str(out), *folders]
    done = subprocess.run(command, cwd=tmp_path, env=surroundings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    base, upsampler = (glide.load(folder, kind) for folder, kind in zip(
        folders, (glide.GlidePipeline, glide.GlideUpsamplePipeline), strict=True))  # fmt: skip
    small = base("melanoma", 1, 1.5, "2", seeds=[3])
    painted = np.load(out)
    near = {"rtol": 0, "atol": 1}  # square roots may be rounded otherwise
    np.testing.assert_allclose(painted["small"].astype(int), small.astype(int), **near)
    large = upsampler("melanoma", small, num_inference_steps="1", seeds=[3])
    assert np.abs(painted["large"].astype(int) - large.astype(int)).mean() < 0.5


def test_publish_writes_a_folder_for_upload_and_uploads_nothing(tmp_path, capsys):
    out = tmp_path / "mini"
    assert cli.main(["publish", str(out)]) == 0
    assert f"hf upload USER/glide-mini {out} ." in capsys.readouterr().out
    assert weight_files.verify(out)
    assert (out / publish.FILE).read_bytes() == (MINI / publish.FILE).read_bytes() and (out / "README.md").is_file()
    assert cli.main(["publish", str(out)]) == 2 and "exists" in capsys.readouterr().err
    (tmp_path / "none").mkdir()
    assert cli.main(["publish", str(tmp_path / "new"), "--weights", str(tmp_path / "none")]) == 2
    assert not (tmp_path / "new").exists()
