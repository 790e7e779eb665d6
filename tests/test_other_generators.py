"""Another generator's images beside test lesions: measured as notebook 04 does, and named with what it saw."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pandas as pd
import pytest
from conftest import ROOT

from dermstudy import workspace
from dermstudy.data import dataset
from dermstudy.evaluation.encoders import Encoder
from dermstudy.files import InputError, sha256_text
from dermstudy.maintenance import other_generators
from dermstudy.phantom import cohort as phantom
from dermstudy.runner import findings, profiles, provenance

GIVEN = {"MEASURED": 12, "AUDIT_N": 4, "SEED": 0, "SIDE": 32, "REPEATS": 4}


def as_painted(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(image_id="synthetic_" + frame["image_id"]).drop(columns=["group", "lesion_id"])


def test_images_are_measured_against_test_lesions_beside_a_floor(tmp_path):
    cohort = dataset.load_folder(phantom.write_cohort(tmp_path / "p", 196, 0, 64, "balanced", 8))
    turn = cohort.frame.groupby("dx")["lesion_id"].transform(lambda own: pd.factorize(own)[0] % 2)
    split = turn.map({0: "train", 1: "test"})
    cohort = replace(cohort, frame=cohort.frame.assign(group=cohort.frame["lesion_id"], split=split))
    judge = Encoder("thumbnails", lambda pixels: pixels[:, ::8, ::8].reshape(len(pixels), -1) / 255.0, "0")
    frame = as_painted(cohort.frame[cohort.frame["split"] == "train"].reset_index(drop=True))
    real = dataset.Cohort("painted", cohort.root, frame, "p")
    table = other_generators.measured(cohort, real, judge, GIVEN, tmp_path)
    rows = table.set_index("metric")
    assert set(rows.index) == {"kid", "fid", "precision", "recall"} and (rows["entity"] == "overall").all()
    assert (rows["low"] <= rows["value"]).all() and (rows["value"] <= rows["high"]).all()
    # one entity's images under every name are farther from test lesions than training lesions are
    nevi = frame[frame["dx"] == "nv"]
    alike = pd.concat([nevi.assign(dx=code, image_id=code + nevi["image_id"]) for code in frame["dx"].unique()])
    other = dataset.Cohort("nevi", cohort.root, alike.reset_index(drop=True), "n")
    far = other_generators.measured(cohort, other, judge, GIVEN, tmp_path).set_index("metric")
    assert far.loc["kid", "value"] > rows.loc["kid", "value"]


def test_what_a_generator_saw_is_read_from_its_lineage(tmp_path):
    known = {"base": {"recipe": {"steps": 50, "batch": 16}, "lesions": "train"}, "upsampler": {}}
    (tmp_path / "lineage.json").write_text(json.dumps(known))
    assert other_generators.seen(tmp_path / "base") == {"lesions": "train", "images_seen": 800}
    with pytest.raises(InputError, match="says nothing of how upsampler was trained"):
        other_generators.seen(tmp_path / "upsampler")


def test_a_generator_has_its_rows_once_and_the_findings_name_it(tmp_path):
    rows = pd.DataFrame({"metric": ["kid", "recall"], "n": 420, "value": [61.3, 0.1], "low": [55.2, 0.0]})
    rows = rows.assign(high=[70.4, 0.2], floor=0.0, lesions="train", images_seen=80_000)
    table = other_generators.added(None, rows, "second generator")
    table = other_generators.added(table, rows.assign(value=[62.0, 0.2]), "subset generator")
    table = other_generators.added(table, rows.assign(value=[60.0, 0.1]), "second generator")
    kid = table.query("metric == 'kid'").set_index("generator")["value"]
    assert list(table.columns) == other_generators.COLUMNS and len(table) == 4
    assert kid.to_dict() == {"second generator": 60.0, "subset generator": 62.0}
    table = other_generators.added(table, rows.assign(lesions="all"), other_generators.SAW_ALL)
    shutil.copytree(ROOT / "results" / "demo" / "tables", tmp_path / "tables")
    space = workspace.Workspace(tmp_path)
    space.save_table(table, other_generators.TABLE)
    found = findings.table(space).set_index("question")[["as published, rerun", "audited"]]
    said = found.loc["And those of the second generator? KID × 1,000"].tolist()
    assert said == [findings.NONE, "60 (55 to 70), n = 420; trained on 80,000 images"]
    # its distance to test lesions, which it saw, is no audited figure
    said = found.loc["And those of the generator that saw all lesions? KID × 1,000"].tolist()
    assert said == ["61 (55 to 70), n = 420; trained on 80,000 images", findings.NONE]
    assert other_generators.TABLE == findings.OTHERS


def test_the_command_names_images_that_are_missing(tmp_path, capsys):
    assert other_generators.main(["smoke", "nowhere"]) == 2 and "nowhere" in capsys.readouterr().err
    folder = tmp_path / "results"
    assert other_generators.main(["ham10000", "published-twin", "--results", str(folder)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("dermstudy: no images in results/published-twin/artifacts/synthetic: run 00 to 03")
    assert said.count("\n") == 1


def test_the_manifest_names_the_command_and_a_later_notebook_leaves_it_there(tmp_path):
    space = workspace.Workspace(tmp_path)
    made = {"tables": [other_generators.TABLE], "figures": ["sheet"]}
    for path in (space.tables / f"{other_generators.TABLE}.csv", space.figures / "sheet.jpg"):
        path.parent.mkdir()
        path.write_text("written")
    provenance.name_command(space, other_generators.COMMAND, made)
    assert not (tmp_path / "manifest.json").exists()  # no notebook ran here
    ran = {"source": "s", "seconds": 1.0, "commit": "c", "tables": {"leak": {"commit": "c"}}}
    (tmp_path / "00_dataset.ipynb").touch()
    profile = profiles.load_profile("demo")
    provenance.write_manifest(space, profile, {"00_dataset": ran}, "00_dataset")
    provenance.name_command(space, other_generators.COMMAND, made)
    provenance.write_manifest(space, profile, {"00_dataset": ran}, "00_dataset")
    notes = json.loads((tmp_path / "manifest.json").read_text())
    assert {name: one["notebook"] for name, one in notes["tables"].items()} == {
        "leak": "00_dataset", other_generators.TABLE: other_generators.COMMAND,
    }  # fmt: skip
    assert list(notes["figures"]) == ["sheet"] and notes["seconds"] == 1.0
    assert notes["figures"]["sheet"]["sha256"] == sha256_text("written")
