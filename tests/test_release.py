"""glide-mini as it ships: every file is the one that was packed, the split keeps lesions apart, the pictures come out."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from diffusers import UNet2DConditionModel
from huggingface_hub import ModelCard
from safetensors import safe_open

from dermstudy.data import dataset, splits
from dermstudy.diffusion import glide, schedules, weights
from dermstudy.evaluation import cascade
from dermstudy.files import InputError
from dermstudy.maintenance import card, mini_speed, packing, stage_costs, versions

MINI = ROOT / "weights" / "glide-mini"
HAM10000 = Path(os.environ.get("HAM10000", ROOT.parent / "shared" / "ham10000"))


def test_every_shipped_file_is_the_one_that_was_packed():
    assert packing.verify(MINI) > 10
    assert sum(path.stat().st_size for path in MINI.rglob("*") if path.is_file()) <= packing.LARGEST


def test_no_shipped_file_names_a_machine():
    for path in (path for path in MINI.rglob("*") if path.suffix in (".json", ".csv", ".md")):
        text = path.read_text(encoding="utf-8")
        assert "_name_or_path" not in text and str(ROOT) not in text, path


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            lambda folder: (folder / "lineage.json").write_text("{}"),
            "lineage.json is not the file that was shipped",
        ),
        (lambda folder: (folder / "README.md").unlink(), "README.md is missing"),
        (lambda folder: (folder / "more.txt").write_text("more"), "more.txt did not ship with the model"),
        (lambda folder: (folder / packing.CHECKSUMS).unlink(), "it is no shipped model"),
    ],
)
def test_a_changed_folder_is_named(tmp_path, harm, message):
    folder = tmp_path / "mini"
    shutil.copytree(MINI, folder)
    harm(folder)
    with pytest.raises(InputError, match=message):
        packing.verify(folder)


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


def test_the_card_has_no_empty_place_and_says_what_the_model_is_not():
    text = (MINI / "README.md").read_text(encoding="utf-8")
    assert "{" not in text and "nan" not in text.split()
    for sentence in ("Not for diagnosis", "CC BY-NC 4.0", "trained from nothing", "fine-tuning"):
        assert sentence in text


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
        assert card.UNMEASURED in text and "validation lesions" in data.eval_results[0].dataset_name
    assert {"kid", "precision", "recall"} <= set(measured) <= set(card.HUB_METRICS)
    for metric, value in measured.items():
        assert value == pytest.approx(values[metric], abs=5e-4)


def test_the_trainings_share_what_the_card_says_of_all():
    for stage in card.STAGES:
        own = weights.lineage(MINI)[stage]
        for recipe in [own["recipe"], *(part["recipe"] for part in own["earlier"])]:
            shared = {"warmup_steps": 200, "caption_dropout": 0.1, "gradient_clip": 1.0}
            assert shared.items() <= recipe.items() and recipe["noise_spread"] > 0


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


def test_the_card_says_which_aims_it_meets_and_which_stage_costs_the_most():
    tables = {name: pd.read_csv(MINI / "tables" / f"{name}.csv") for name in card.MEASURED}
    size, speed = card._size(MINI), pd.read_csv(MINI / "tables" / mini_speed.TABLE)
    aims, audited = (
        card._aims(tables, size, speed), tables["quality_audited"].query("entity == 'overall'").set_index("metric")
    )  # fmt: skip
    whole = aims.loc["KID, end to end"]
    assert whole["met"] == ("yes" if audited.loc["kid", "value"] <= 35 else "no")
    assert whole["reached"].startswith(f"{audited.loc['kid', 'value']:.0f} (")
    assert aims.loc["weights", "met"] == "yes" and 20 < size < 40
    better = audited.assign(value=[30.0, 100.0, 0.9, 0.4][: len(audited)], entity="overall").reset_index()
    better.loc[better["metric"] == "recall", "value"] = 0.31
    slow = speed.assign(seconds=9.0)
    aims = card._aims(tables | {"quality_audited": better}, size, slow)
    assert aims.loc[["KID, end to end", "recall, end to end"], "met"].tolist() == ["yes", "yes"]
    assert aims.loc["seconds of a whole image on two cores", ["reached", "met"]].tolist() == ["9.0 s", "no"]
    text = (MINI / "README.md").read_text()
    assert card._why(tables) in text and "So the base costs the most" in text
    assert all(
        f"| {figure} | {row['aim']} | {row['reached']} |" in text
        for figure, row in card._aims(tables, size, speed).iterrows()
    )
    stages = tables["quality_cascade"]
    even = stages.assign(kid=stages["kid"].where(stages["enlarged_by"] != "upsampler", 20.0))
    assert "the upsampler costs as much" in card._why(tables | {"quality_cascade": even})


def test_the_card_names_the_stage_that_holds_recall_and_naming_back():
    costs = pd.read_csv(MINI / "tables" / stage_costs.TABLE)
    assert card._costs(costs) in (MINI / "README.md").read_text()
    real = costs["input"].eq(stage_costs.REAL)
    assert costs.loc[real, "less_real"].tolist() == [0.0] and costs.loc[real, "enlarged_by"].tolist() == [cascade.NONE]
    by_upsampler = costs["enlarged_by"].eq(cascade.UPSAMPLER)
    lost = costs.assign(
        recall=costs["recall"].where(~by_upsampler, 0.0), named=costs["named"].where(~by_upsampler, 0.0)
    )
    assert card._costs(lost).count("the upsampler holds it back the more") == 2


def test_fine_detail_is_named_where_it_was_measured():
    levels = pd.read_csv(MINI / "tables" / "noise_levels.csv")
    base = levels.query("model == 'base'")
    told, own = (
        card._fine_detail(levels),
        base[base["sitting"] == base["sitting"].max()].set_index("noise")["kid_enlarged"],
    )
    assert f"{own[0.3]:.0f} once enlarged, untouched ones" in told and told in (MINI / "README.md").read_text()
    assert card._fine_detail(levels.assign(kid_enlarged=float("nan"))) == ""


def test_the_last_version_is_the_one_that_ships():
    table = pd.read_csv(MINI / "tables" / versions.TABLE)
    chosen = pd.read_csv(MINI / "tables" / "samplers.csv").query("chosen").iloc[-1]
    sittings = pd.read_csv(MINI / "tables" / "sittings.csv").groupby("model")["images"].max()
    last = table.iloc[-1]
    for name in versions.SETTINGS:
        assert last[name] == pytest.approx(chosen[name])
    assert {name: last[column] for name, column in versions.SEEN.items()} == sittings.to_dict()
    assert table["base_images"].is_monotonic_increasing and len(versions.figure(table).axes) == 2


def test_a_folder_without_history_has_no_versions(tmp_path, monkeypatch):
    monkeypatch.setattr(versions, "_git", lambda *arguments: "")
    with pytest.raises(InputError, match="no version of weights/glide-mini in the history: fetch it whole"):
        versions.versions(MINI)


def test_colours_that_are_off_are_named():
    table = pd.read_csv(MINI / "tables" / "quality_colour.csv")
    said = card._too_coloured(table)
    yellow = table.query("channel == 'b' and low > 0")
    assert f"too yellow in {len(yellow)} of 7 entities" in said and "nv" not in said.split()
