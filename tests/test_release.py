"""glide-mini as it ships: every file is the one that was packed, the split keeps lesions apart, the pictures come out."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from diffusers import UNet2DConditionModel
from huggingface_hub import ModelCard
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dermstudy import weight_files
from dermstudy.data import dataset, splits
from dermstudy.diffusion import architecture, glide, schedules
from dermstudy.files import InputError
from dermstudy_commands.maintenance import card, shipping

MINI = ROOT / "weights" / "glide-mini"
HAM10000 = Path(os.environ.get("HAM10000", ROOT.parent / "shared" / "ham10000"))


def test_every_shipped_file_is_the_one_that_was_packed():
    assert weight_files.verify(MINI) > 10
    assert sum(path.stat().st_size for path in MINI.rglob("*") if path.is_file()) <= shipping.LARGEST


def test_no_shipped_file_names_a_machine():
    for path in (path for path in MINI.rglob("*") if path.suffix in (".json", ".csv", ".md")):
        text = path.read_text(encoding="utf-8")
        assert "_name_or_path" not in text and str(ROOT) not in text, path


def spoiled(folder, change, part="unet"):
    """A copy of the base model in `folder` without checksums, the tensors of `part` changed."""
    shutil.copytree(MINI / "base", folder, ignore=shutil.ignore_patterns("guide_*"))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({k: v for k, v in index.items() if not k.startswith("guide")}))
    path = folder / part / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tensors: tensors["conv_in.weight"].view(-1)[0].fill_(float("nan")),
            "unet: conv_in.weight holds numbers that",
        ),
        (lambda tensors: tensors.pop("conv_in.weight"), "unet lacks 1 tensors, conv_in.weight first"),
        (
            lambda tensors: tensors.update({"conv_in.weight": torch.zeros(4, 12, 3, 3)}),
            "is not a complete GLIDE folder",
        ),
    ],
)
def test_weights_that_cannot_answer_are_refused_where_they_are_loaded(tmp_path, change, message):
    with pytest.raises(InputError, match=message) as caught:
        glide.load(spoiled(tmp_path / "base", change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("harm", ["no tokenizer", "another tokenizer"])
def test_a_tokenizer_that_did_not_come_with_the_weights_is_refused(tmp_path, harm):
    folder = spoiled(tmp_path / "base", lambda tensors: None)
    shutil.rmtree(folder / "tokenizer")
    if harm == "another tokenizer":
        architecture.train_tokenizer(["melanoma"]).save_pretrained(folder / "tokenizer")
    with pytest.raises(InputError, match="get the tokenizer that came with the weights"):
        glide.load(folder)


def test_a_stage_that_is_not_as_shipped_is_named_and_one_changed_on_purpose_is_not(tmp_path):
    folder = shutil.copytree(MINI, tmp_path / "mini")
    path = folder / "base" / "unet" / "config.json"
    path.write_text(path.read_text() + "\n")
    assert glide.load(folder / "upsampler", glide.GlideUpsamplePipeline).side == 256
    with pytest.raises(
        InputError, match="unet/config.json is not the file that was shipped: get it again .git checkout"
    ):
        glide.load(folder / "base")
    (folder / weight_files.CHECKSUMS).unlink()
    assert glide.load(folder / "base").side == 64


def test_images_that_are_not_finite_are_refused():
    model = glide.load(MINI / "base", with_guide=False)
    with torch.no_grad():
        model.unet.conv_in.weight.view(-1)[0] = float("nan")
    with pytest.raises(InputError, match="no image came out: the sample holds numbers that are not finite"):
        model("melanoma", num_inference_steps=1)


@pytest.mark.parametrize("part", ["base", "upsampler"])
def test_weights_ship_as_half_precision_and_load_as_single(part):
    for path in (MINI / part).rglob("*.safetensors"):
        with safe_open(path, "pt") as stream:
            kinds = {str(stream.get_slice(key).get_dtype()) for key in stream.keys()}
        other = {"pixels": "F32", "guide_unet": "F8_E4M3", "guide_text_encoder": "F8_E4M3"}  # pixels: means and spreads
        assert kinds == {other.get(path.parent.name, "F16")}, path
    model = glide.load(MINI / part, glide.GlidePipeline if part == "base" else glide.GlideUpsamplePipeline)
    assert {str(parameter.dtype) for parameter in model.unet.parameters()} == {"torch.float32"}


def test_the_shipped_models_paint_skin_and_hear_the_caption():
    base = glide.load(MINI / "base")
    base.scheduler = schedules.sampler_from(base.scheduler, "dpm-solver")
    base.set_progress_bar_config(disable=True)
    images = base(["melanoma", "vascular lesion"], guidance_scale=1.5, num_inference_steps="20", seeds=[3, 3])
    images = images.astype(float)
    red, green, blue = images.mean(axis=(1, 2)).T
    assert (red > green).all() and (red > blue).all() and images.mean() > 80
    assert np.abs(images[0] - images[1]).mean() > 3


def test_the_card_opens_in_hugging_faces_form_with_the_tables_figures():
    loaded = ModelCard.load(MINI / "README.md")
    text = (MINI / "README.md").read_text(encoding="utf-8")
    assert text.startswith(card.front_matter(MINI) + "# glide-mini\n")
    assert loaded.text.lstrip().startswith("# glide-mini")
    data = loaded.data
    assert (data.license, data.library_name, data.pipeline_tag) == ("cc-by-nc-4.0", "diffusers", "text-to-image")
    measured = {result.metric_type: result.metric_value for result in data.eval_results or []}
    if (MINI / "tables" / card.MEASURED_BY).is_file():
        audited = pd.read_csv(MINI / "tables" / "quality_audited.csv")
        values = audited.query("entity == 'overall'").set_index("metric")["value"]
    else:  # test lesions are looked at by the run of all notebooks
        values = pd.read_csv(MINI / "tables" / "samplers.csv").query("chosen").iloc[-1]
        assert "validation lesions" in data.eval_results[0].dataset_name
    assert {"kid", "precision", "recall"} <= set(measured) <= set(card.HUB_METRICS)
    for metric, value in measured.items():
        assert value == pytest.approx(values[metric], abs=5e-4)


def test_the_lines_by_which_another_project_loads_it_run():
    """The card's code, as it stands there; and each U-Net by diffusers alone."""
    block = re.search(r"```python\n(.+?)```", (MINI / "README.md").read_text(encoding="utf-8"), re.S)[1]
    assert len(block.strip().splitlines()) <= 10
    space: dict = {}
    exec(
        block.replace('"weights/', f'"{ROOT}/weights/')
        .replace("steps=20", "steps=2")
        .replace("seeds, 8)", "seeds, 2)"),
        space,
    )
    assert space["large"].shape == (1, 256, 256, 3) and space["large"].std() > 1
    for stage in card.STAGES:
        unet = UNet2DConditionModel.from_pretrained(str(MINI / stage / "unet"), local_files_only=True)
        assert unet.config.class_embed_type in ("identity", "projection")


@pytest.mark.skipif(not HAM10000.is_dir(), reason="HAM10000 is not at hand: its split cannot be checked against it")
def test_the_shipped_split_names_every_image_and_keeps_lesions_apart():
    cohort = dataset.load_folder(HAM10000)
    split = splits.apply_split(cohort.frame, MINI.parent / "ham10000-split.csv")
    frame = cohort.frame.assign(split=split)
    assert frame.groupby("lesion_id")["split"].nunique().max() == 1
    assert len(pd.read_csv(MINI.parent / "ham10000-split.csv")) == len(frame)


def test_a_card_is_filled_from_the_tables_beside_it():
    text = card.card(MINI)
    tables = {path.stem: pd.read_csv(path) for path in (MINI / "tables").glob("*.csv")}
    assert text.startswith("---\n") and not re.search(r"\{|\bnan\b|None", text)
    overall = tables["quality_audited"].query("entity == 'overall'").set_index("metric")["value"]
    reached = card.aims(tables, 30_000_000).set_index("on test lesions")
    assert reached.loc["KID, end to end", "reached"] == overall["kid"]
    assert reached.loc["KID, end to end", "met"] == (overall["kid"] <= 35) and reached.loc["MB of weights", "met"]
    assert f"| KID, end to end | at most 35 | {overall['kid']:.3g} |" in text
    assert all(f"{seen:,} images" in text for seen in tables["sittings"].groupby("model")["images"].max())


def test_a_table_is_shown_with_names_and_intervals():
    table = pd.DataFrame({"entity": ["mel"], "kid": [12.34], "low": [-0.2], "high": [20.0], "n": [1200], "p": [np.nan]})
    assert card.markdown(table).splitlines() == [
        "| entity | kid | n | p |",
        "| --- | --- | --- | --- |",
        "| melanoma | 12 (0 to 20) | 1,200 |  |",
    ]


def test_the_last_version_is_the_one_that_ships(tmp_path):
    table = pd.read_csv(MINI / "tables" / card.VERSIONS)
    pd.testing.assert_frame_equal(shipping.versions(MINI), table)
    assert table["base_images"].is_monotonic_increasing and len(shipping.versions_figure(table).axes) == 2
    shutil.copytree(MINI / "tables", tmp_path / "tables")
    table[:-1].to_csv(tmp_path / "tables" / card.VERSIONS, index=False)
    pd.testing.assert_frame_equal(shipping.versions(tmp_path).iloc[:, 1:], table.iloc[:, 1:])
