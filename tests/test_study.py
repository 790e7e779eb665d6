"""The runner: profiles, parameters, skipping, failing notebooks, and the whole walk through papermill."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import nbformat
import pandas as pd
import pytest
from conftest import ROOT
from huggingface_hub import ModelCard

from dermstudy import processor, weight_files, workspace
from dermstudy.classification import training_sets
from dermstudy.data import dataset
from dermstudy.diffusion import glide, weights
from dermstudy.files import InputError, sha256_file
from dermstudy_commands import cli
from dermstudy_commands.maintenance import card as model_card
from dermstudy_commands.maintenance import samplers, shipping
from dermstudy_commands.runner import fingerprints, parallel, profiles, provenance, study

STEMS = [
    "00_dataset", "01_finetune", "02_upsample", "03_sample", "04_metrics", "05_dermatologist_study",
    "06_cnn_classifier", "07_ablation", "08_textual_inversion", "09_which_parts",
]  # fmt: skip


@pytest.mark.walk
def test_every_notebook_runs_without_an_error_cell(smoke):
    for stem in STEMS:
        notebook = nbformat.read(smoke / f"{stem}.ipynb", as_version=4)
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        assert outputs, stem
        assert not [output for output in outputs if output.output_type == "error"], stem
        loud = [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]
        assert not loud, (stem, loud)


def test_a_profile_names_the_variables_of_its_kernels(tmp_path):
    demo, smoke = (profiles.load_profile(name).environment for name in ("demo", "smoke"))
    assert demo == smoke and demo[processor.CAP] == "AVX2" and not profiles.load_profile("ham10000").environment
    (tmp_path / "00_dataset.yaml").write_text("SEED: 1\n")
    (tmp_path / "environment.txt").write_text("A=1\nB = 2\n")
    with pytest.raises(InputError, match="NAME=value .* not 'B'"):
        profiles.load_profile(str(tmp_path))


def test_notebooks_run_under_the_variables_of_their_profile_or_those_given(tmp_path, monkeypatch):
    seen = []
    monkeypatch.delenv(processor.CAP, raising=False)
    monkeypatch.setattr(study.order, "run_in_order", lambda *_: seen.append(os.environ.get(processor.CAP)))
    study.run("smoke", results=str(tmp_path / "results"))
    study.run("smoke", results=str(tmp_path / "results"), environment={})
    assert seen == ["AVX2", None] and processor.CAP not in os.environ


@pytest.mark.walk
def test_the_walk_leaves_its_tables_figures_and_manifest(smoke):
    for name in ("cohort", "split", "leak", "finetune_log", "quality_as_published", "quality_audited",
                 "reader_figures", "classifier_report", "ablation", "ablation_summary"):  # fmt: skip
        assert len(pd.read_csv(smoke / "tables" / f"{name}.csv")), name
    drawn = workspace.Workspace(smoke).pictures()
    for name in ("montage", "synthetic_grid", "figure_1", "caption", "quality_floor", "roc", "classifier_confusion",
                 "ablation_summary"):  # fmt: skip
        assert drawn[name].stat().st_size > 3_000, name
    manifest = json.loads((smoke / "manifest.json").read_text())
    assert list(manifest["notebooks"]) == STEMS
    assert manifest["profile"] == "smoke" and manifest["packages"]["torch"]
    assert len(manifest["data_hash"]) == 64
    named = {"page": provenance.PROTOCOL, "commit": workspace.last_commit(provenance.PROTOCOL)}
    assert {stem: own["protocol"] for stem, own in manifest["notebooks"].items() if "protocol" in own} == {
        provenance.TRIAL: named
    }
    assert all(entry["seconds"] > 0 for entry in manifest["notebooks"].values())
    made = {"commit": workspace.commit(), "processor": "AVX2"}  # under the caps of the profile
    assert all(entry | made == entry and entry["source"] for entry in manifest["notebooks"].values())
    assert manifest["notebooks"]["01_finetune"]["measures"]["finetune_seconds"] > 0
    assert manifest["notebooks"]["09_which_parts"]["measures"]["which_parts_seconds"]["LoRA"] > 0
    for path in (smoke / "tables").glob("*.csv"):
        assert "seconds" not in pd.read_csv(path).columns, path.name
    table, figure = (sha256_file(path) for path in (smoke / "tables" / "leak.csv", drawn["finetune_loss"]))
    assert manifest["tables"]["leak"] == {"notebook": "00_dataset", "sha256": table} | made
    assert manifest["figures"]["finetune_loss"] == {"notebook": "01_finetune", "sha256": figure} | made
    assert set(manifest["tables"]) == {path.stem for path in (smoke / "tables").glob("*.csv")}
    assert set(manifest["figures"]) == set(drawn)
    assert manifest["notebooks"]["01_finetune"]["artifacts"]["glide_base"] == made
    assert set(manifest["notebooks"]["00_dataset"]["artifacts"]) == {"cohort"}
    assert manifest["notebooks"]["01_finetune"]["parameters"]["STEPS"] == 12
    assert manifest["notebooks"]["01_finetune"]["parameters"]["WEIGHT_DECAY"] == 0.0


@pytest.mark.walk
def test_no_machine_path_in_an_executed_notebook(smoke):
    for stem in STEMS:
        text = (smoke / f"{stem}.ipynb").read_text()
        assert str(ROOT / ".venv") not in text and "/tmp/ipykernel" not in text, stem


@pytest.mark.walk
def test_synthetic_images_lie_beside_their_captions(smoke):
    folder = smoke / "artifacts" / "synthetic"
    index = pd.read_csv(folder / "index.csv")
    assert len(index) == 56 and index["dx"].value_counts().eq(8).all()
    for row in index.itertuples():
        assert (folder / f"{row.image_id}.txt").read_text().strip() == row.caption
    assert index["seed"].is_unique


@pytest.mark.walk
def test_a_second_run_skips_and_a_changed_parameter_does_not(smoke, capsys):
    study.run("smoke", results=str(smoke))
    assert capsys.readouterr().out.count("up to date") == len(STEMS)
    (smoke / "artifacts" / "reader_workbook.xlsx").unlink()
    study.run("smoke", results=str(smoke), only="05")
    assert "up to date" not in capsys.readouterr().out


@pytest.mark.walk
def test_the_training_cell_runs_in_two_processes(smoke, tmp_path, capsys):
    """Launched over two processes, training is found done by the walk, which then only draws and saves."""
    results = tmp_path / "results"
    shutil.copytree(smoke / "artifacts" / "cohort", results / "artifacts" / "cohort")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m",
               "dermstudy_commands.runner.parallel", "01", "smoke", "--results", str(results)]  # fmt: skip
    with study.locked(workspace.open_workspace(results)):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode and done.stderr.count("another run is writing to") == 1
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("step     12/12") == 1
    study.run("smoke", results=str(results), only="01")
    assert "going on from step 12" in capsys.readouterr().out


@pytest.mark.walk
def test_only_notebooks_with_a_tagged_cell_run_in_processes(smoke, capsys):
    assert parallel.main(["99", "smoke"]) == 2
    assert "no notebook '99'" in capsys.readouterr().err
    assert parallel.main(["05", "smoke", "--results", str(smoke)]) == 2
    assert "has no cell tagged 'parallel'" in capsys.readouterr().err


def test_a_cut_off_clone_does_not_say_which_commit_last_touched_a_file(tmp_path, monkeypatch):
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "init", "-q", str(origin)], check=True)
    for name in ("first", "second"):
        (origin / name).touch()
        subprocess.run([*git, "-C", str(origin), "add", "."], check=True)
        subprocess.run([*git, "-C", str(origin), "commit", "-qm", name], check=True)
    subprocess.run(["git", "clone", "-q", "--depth", "1", origin.as_uri(), str(clone)], check=True)
    monkeypatch.setattr(workspace, "project_root", lambda: origin)
    assert re.fullmatch("[0-9a-f]{40}", workspace.last_commit("first"))
    monkeypatch.setattr(workspace, "project_root", lambda: clone)
    assert workspace.last_commit("first") == "unknown"


def test_a_walk_stops_after_a_notebook():
    assert [path.name[:2] for path in study.selected(None, None, "02")] == ["00", "01", "02"]
    assert [path.name[:2] for path in study.selected(None, "01", "02")] == ["01", "02"]


def test_the_trial_alone_names_the_protocol_that_it_was_run_under(tmp_path, monkeypatch):
    """An amendment and a rerun of 06 leave the trial with the page that it knew."""
    space, chosen = workspace.open_workspace(tmp_path / "results"), profiles.load_profile("smoke")
    entry = {"source": "s", "fingerprint": "f", "commit": "run", "seconds": 1.0}
    named = []
    for page, stem in (("first", provenance.TRIAL), ("amended", "06_cnn_classifier"), ("amended", provenance.TRIAL)):
        monkeypatch.setattr(provenance, "last_commit", lambda _: page)  # noqa: B023
        (space.root / f"{stem}.ipynb").touch()
        made = {kind: {} for kind in ("artifacts", "measures", "tables", "figures")}
        provenance.write_manifest(space, chosen, stem, entry | provenance.fixed_by(stem), made)
        ran = json.loads((space.root / "manifest.json").read_text())["notebooks"]
        named.append({stem: one["protocol"]["commit"] for stem, one in ran.items() if "protocol" in one})
    assert named == [{provenance.TRIAL: "first"}, {provenance.TRIAL: "first"}, {provenance.TRIAL: "amended"}]


def test_fingerprints_follow_parameters_and_dependencies():
    parameters = profiles.resolve(profiles.load_profile("smoke"), "results/x")
    before = fingerprints.fingerprints(parameters, "phantom")
    parameters["01_finetune"]["STEPS"] = 13
    after = fingerprints.fingerprints(parameters, "phantom")
    changed = {stem for stem in before if before[stem] != after[stem]}
    assert changed == set(STEMS) - {"00_dataset", "09_which_parts"}


def test_fingerprints_follow_the_weights_that_a_walk_starts_from(tmp_path):
    parameters = profiles.resolve(profiles.load_profile("smoke"), "results/x")
    (tmp_path / "weights").mkdir()
    parameters["01_finetune"]["START"] = str(tmp_path / "weights")
    prints = []
    for content in ("one", "one", "two"):
        (tmp_path / "weights" / "model").write_text(content)
        prints.append(fingerprints.fingerprints(parameters, "phantom"))
    assert prints[0] == prints[1] and prints[0]["00_dataset"] == prints[2]["00_dataset"]
    assert prints[0]["01_finetune"] != prints[2]["01_finetune"] and prints[0]["03_sample"] != prints[2]["03_sample"]


def test_a_data_folder_is_known_by_its_bytes_not_by_its_times(tmp_path):
    (tmp_path / "images").mkdir()
    image = tmp_path / "images" / "ISIC_0000001.jpg"
    tokens = []
    for content in ("one", "one", "two"):
        image.write_text(content)
        os.utime(image, (len(tokens), len(tokens)))
        tokens.append(fingerprints.data_token(str(tmp_path)))
    assert tokens[0] == tokens[1] != tokens[2]
    image.rename(image.with_name("ISIC_0000002.jpg"))
    assert fingerprints.data_token(str(tmp_path)) != tokens[2] and fingerprints.data_token("phantom") == "phantom"
    parameters = profiles.resolve(profiles.load_profile("paper"), "results/x")  # DATA is its notebook's default
    before, after = (fingerprints.fingerprints(parameters, token) for token in tokens[1:])
    assert all(before[stem] != after[stem] for stem in ("00_dataset", "04_metrics"))


@pytest.mark.walk
def test_a_failing_notebook_stops_the_walk_and_keeps_the_old_result(smoke, tmp_path, capsys):
    kept = (smoke / "05_dermatologist_study.ipynb").read_bytes()
    broken = smoke / "artifacts" / "cohort" / "cohort.json"
    text = broken.read_text()
    broken.write_text("{")
    try:
        assert cli.main(["run", "smoke", "--results", str(smoke), "--only", "01", "--force"]) == 2
    finally:
        broken.write_text(text)
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "01_finetune, cell" in error and "run notebook 00_dataset again" in error
    assert (smoke / "artifacts" / "failed" / "01_finetune.ipynb").is_file()
    assert (smoke / "05_dermatologist_study.ipynb").read_bytes() == kept


@pytest.mark.walk
def test_a_run_that_was_cut_goes_on(tmp_path):
    """Interrupted within a notebook, then killed there: nothing half-written stands, and the same command ends it."""
    results = tmp_path / "results"
    command = [sys.executable, "-m", "dermstudy", "run", "smoke", "--to", "00", "--results", str(results)]
    for number, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9), (0, 0)):
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        for line in process.stdout:
            if line.startswith("[00_dataset] cell 5"):
                os.killpg(process.pid, number) if number == signal.SIGKILL else process.send_signal(number)
                break
        error = process.communicate(timeout=300)[1]
        assert process.returncode == code and (results / "00_dataset.ipynb").is_file() == (not number), error
        assert ("goes on from the last finished notebook" in error) == (number == signal.SIGINT)


@pytest.mark.slow
def test_the_base_model_trains_at_the_papers_side(cohort, tmp_path):
    """Notebook 01 at 128 x 128, from weights that were trained at 64 x 64."""
    import papermill

    results = tmp_path / "results"
    dataset.save_cohort(cohort, results / "artifacts" / "cohort")
    smoke = profiles.resolve(profiles.load_profile("smoke"), str(results))["01_finetune"]
    own = {"SIDE": 128, "STEPS": 1, "BATCH": 2, "VALIDATE_EVERY": 1, "HELD_OUT": 7, "PREVIEW_STEPS": 1}
    own["START"] = "weights/glide-mini/base"
    papermill.execute_notebook(
        str(ROOT / "notebooks" / "01_finetune.ipynb"), str(tmp_path / "out.ipynb"), parameters=smoke | own,
        kernel_name="python3", cwd=str(ROOT / "notebooks"), progress_bar=False,
    )  # fmt: skip
    assert glide.load(results / "artifacts" / "glide_base").side == 128
    told = (tmp_path / "out.ipynb").read_text()
    assert "training images at 128 x 128" in told and "trained at 64 x 64" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nope"], "unknown profile 'nope'"),
        (["run", "smoke", "--data", "/no/such/folder"], "no folder /no/such/folder"),
        (["run", "smoke", "--only", "42"], "no notebook '42'"),
        (["run", "smoke", "--only", "00,43"], "no notebook '43'"),
        (["run", "smoke", "--to", "42"], "no notebook '42'"),
        (["run", "smoke", "--from", "05", "--to", "03"], "--from 05 lies after --to 03"),
        (["run", "smoke", "--only", "05", "--to", "07"], "give it without --from and --to"),
        (["data", "check", "/no/such/folder"], "no folder /no/such/folder"),
        (["data", "phantom", "/no/such/folder", "--profile", "ham10000"], "needs a whole number for IMAGES, SEED"),
    ],
)
def test_bad_arguments_end_in_one_line(arguments, message, capsys):
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [["data", "phantom", "{}"], ["convert", "x.pt", "{}", "--tokenizer", "x"], ["convert", "x", "{}", "--to-openai"]],
)
def test_what_is_there_already_is_never_written_over(tmp_path, arguments, capsys):
    (tmp_path / "image.jpg").write_text("somebody's")
    assert cli.main([part.format(tmp_path) for part in arguments]) == 2
    error = capsys.readouterr().err
    assert "is there already" in error and error.count("\n") == 1
    assert (tmp_path / "image.jpg").read_text() == "somebody's"


def test_a_reader_that_leaves_early_sees_no_traceback():
    """`dermstudy findings | head`, whose pipe is closed before a word is written."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "dermstudy", "findings", "results/ham10000"]
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.returncode == 1 and done.stderr == ""


def test_a_results_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert cli.main(["run", "smoke", "--results", str(tmp_path / "file")]) == 2
    assert "cannot write to the results folder" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"STEPPS": 3}, "profile 'trial', 01_finetune: STEPPS is no parameter of this notebook: STEPS is one"),
        ({"STEPS": "many"}, "STEPS is 'many': give a value of type int"),
        ({"STEPS": True}, "STEPS is True: give a value of type int"),
        ({"LEAVE_OUT": "melanoma"}, "LEAVE_OUT is 'melanoma': give a value of type list.str."),
    ],
)
def test_unknown_parameters_are_errors(own, message):
    stems = {notebook.stem: {} for notebook in profiles.notebooks()} | {"01_finetune": own}
    with pytest.raises(InputError, match=message):
        profiles.resolve(profiles.Profile("trial", "", stems), "results/x")


def test_a_twin_is_the_one_it_stands_beside_but_for_what_it_is_for():
    base, twin = (profiles.load_profile(name) for name in ("ham10000", "published-twin"))
    where = {"RESULTS": "results/published-twin"}
    assert twin.parameters["04_metrics"] == base.parameters["04_metrics"] | where
    twin, base = twin.parameters["01_finetune"], base.parameters["01_finetune"]
    where |= {"TRAIN_ON": "all", "START": "results/published-twin/weights/base"}
    assert base["KEEP_START"] and twin["EPOCHS"] == 0  # the training that 01 shows there is not the generator's
    assert all(twin[name] == (base | where)[name] for name in twin.keys() & base.keys())


def test_other_generators_paint_what_the_trial_takes_of_them():
    base = profiles.resolve(profiles.load_profile("ham10000"), "results/ham10000")
    for name, pool, whose in (
        ("ham10000-second", training_sets.SECOND, "train"),
        ("ham10000-subset", training_sets.OWN, "subset"),
    ):
        own = profiles.resolve(profiles.load_profile(name), f"results/{name}")
        assert own["01_finetune"]["START"] == f"results/{name}/weights/base"
        used = ("START", "SAMPLER", "SAMPLER_STEPS")  # the upsampler as it ships, whose training 02 only shows
        assert base["02_upsample"]["KEEP_START"] and own["02_upsample"]["EPOCHS"] == 0
        assert all(own["02_upsample"][key] == base["02_upsample"][key] for key in used)
        assert (own["03_sample"]["FOR_TRIAL"], own["03_sample"]["PAIR_WITH"]) == (pool, whose)


def test_a_folder_of_ones_own_is_a_profile(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "05_dermatologist_study.yaml").write_text("BOOTSTRAP: 3\n")
    assert profiles.load_profile(str(mine)).parameters["05_dermatologist_study"] == {"BOOTSTRAP": 3}
    with pytest.raises(InputError, match="names no RESULTS"):
        study.default_results(str(mine))
    (mine / "05_dermatologist_study.yaml").write_text("BOOTSTRAP: 3\nRESULTS: build/mine\n")
    assert study.default_results(str(mine)) == "build/mine"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("05_dermatologist_study.yaml", "00_dataset:\n  SEED: 1\n", "00_dataset is no parameter"),
        ("05_dermatologist_study.yaml", "- SEED\n", "05_dermatologist_study.yaml needs a line `NAME: value`"),
        ("05_dermatologist_study.yaml", "SEED: [", "05_dermatologist_study.yaml is not valid YAML"),
        ("05_dermatologist_study.yaml", "RESULTS: a\n", "name several results folders: a, b"),
        ("11_more.yaml", "SEED: 1\n", "11_more.yaml is named after no notebook"),
    ],
)
def test_a_profile_of_another_shape_is_named(name, content, message, tmp_path):
    (tmp_path / "00_dataset.yaml").write_text("RESULTS: b\n" if content.startswith("RESULTS") else "")
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        profiles.resolve(profiles.load_profile(str(tmp_path)), "results/x")


def test_two_runs_do_not_write_to_one_folder(tmp_path):
    space = workspace.open_workspace(tmp_path / "results")
    with study.locked(space), pytest.raises(InputError, match="another run"):
        with study.locked(space):
            pass


def test_notebooks_are_sources_with_the_papers_values():
    from dermstudy.published import paper

    for notebook in profiles.notebooks():
        content = nbformat.read(notebook, as_version=4)
        assert not [cell for cell in content.cells if cell.get("outputs")], notebook.name
    base = profiles.declared_parameters(ROOT / "notebooks" / "01_finetune.ipynb")
    network = profiles.declared_parameters(ROOT / "notebooks" / "06_cnn_classifier.ipynb")
    for name, parameter in (("learning rate", "LEARNING_RATE"), ("epochs", "EPOCHS"), ("batch size", "BATCH"),
                            ("weight decay", "WEIGHT_DECAY"), ("unconditional probability", "CAPTION_DROPOUT")):  # fmt: skip
        assert base[parameter] == paper.METHODS[name][0]
    for name, parameter in (("epochs", "EPOCHS"), ("patience", "PATIENCE"), ("batch size", "BATCH"),
                            ("test share", "TEST_FRACTION")):  # fmt: skip
        assert network[parameter] == paper.METHODS[f"classifier {name}"][0]


@pytest.mark.walk
def test_a_card_takes_up_what_a_walk_measured_of_its_weights(smoke, tmp_path, monkeypatch):
    """A folder of the walk's own weights gets the tables of its 04; one of other weights or settings does not."""
    space, folder = workspace.open_workspace(smoke), tmp_path / "glide-mini"
    shutil.copytree(ROOT / "weights" / "glide-mini", folder)
    (folder / "tables" / samplers.TABLE).unlink()
    with pytest.raises(InputError, match="samplers.csv is missing"):
        shipping.pack(folder)
    same = {"n": 70, "kid": 40.0, "low": 30.0, "high": 50.0, "precision": 0.5, "recall": 0.1}
    monkeypatch.setattr(samplers, "measures", lambda *_: lambda setting: vars(setting) | same)
    compared = samplers.compare(None, None, None, None, None, None)
    compared.to_csv(folder / "tables" / samplers.TABLE, index=False)
    frame = dataset.open_cohort(space.artifacts / "cohort").frame
    samplers.image_counts(frame).to_csv(folder / "tables" / "images.csv")
    chosen = weights.lineage(folder) | {"sampling": samplers.sampling_of(compared)}
    (folder / weights.LINEAGE).write_text(json.dumps(chosen))
    with pytest.raises(InputError, match="was sampled with another"):
        shipping.pack(folder, space)
    used = json.loads((space.root / "manifest.json").read_text())["notebooks"]["03_sample"]["parameters"]
    lineage = weights.lineage(folder)
    sampling = {name: used[name] for name in lineage["sampling"]}
    (folder / weights.LINEAGE).write_text(json.dumps(lineage | {"sampling": sampling}))
    with pytest.raises(InputError, match="holds other weights than"):
        shipping.pack(folder, space)
    for stage in ("base", "upsampler"):
        shutil.rmtree(folder / stage)
        shutil.copytree(space.artifacts / f"glide_{stage}", folder / stage)
    with monkeypatch.context() as own:
        own.setattr(glide, "identity", lambda pipeline: "of another")
        with pytest.raises(InputError, match="was painted by other weights or older code: rerun 03 and 04"):
            shipping.pack(folder, space)
    shipping.pack(folder, space)
    text = (folder / "README.md").read_text()
    assert weight_files.verify(folder) > 20 and "{" not in text and "Notebook 04 measured" in text
    card = ModelCard.load(folder / "README.md")
    overall = pd.read_csv(space.tables / "quality_audited.csv").query("entity == 'overall'").set_index("metric")
    measured = {result.metric_type: result for result in card.data.eval_results}
    assert set(measured) == set(model_card.HUB_METRICS)
    for metric, found in measured.items():
        assert found.dataset_split == "test"
        assert found.metric_value == pytest.approx(overall.loc[metric, "value"], abs=5e-4)


def test_a_phantom_is_drawn_once_for_its_settings(tmp_path, capsys):
    (tmp_path / "00_dataset.yaml").write_text(f"DATA: {tmp_path / 'phantom-data' / 'own'}\n")
    for images in (14, 14, 15):
        settings = f"IMAGES: {images}\nMIN_LESIONS: 1\nSIDE: 16\nSEED: 0\n"
        (tmp_path / "phantom.yaml").write_text(settings)
        study.draw_phantom(profiles.load_profile(str(tmp_path)))
        assert len(dataset.open_source(tmp_path / "phantom-data" / "own")) == images
    assert capsys.readouterr().out.count("drawing the phantom") == 2
    with pytest.raises(InputError, match="no phantom in .*: draw it first .`dermstudy data phantom .* --profile demo`"):
        dataset.open_source(tmp_path / "phantom-data" / "demo")
    (tmp_path / "phantom.yaml").write_text("IMAGES: 14\n")
    with pytest.raises(InputError, match="needs a whole number for SEED, SIDE, MIN_LESIONS"):
        study.draw_phantom(profiles.load_profile(str(tmp_path)))


TINY = """
import pandas as pd
from dermstudy import workspace
ws = workspace.open_notebook(globals())
if SEED < 0:
    raise workspace.InputError("give a seed from 0")
ws.save_table(pd.DataFrame({"seed": [SEED]}), "NAME")
ws.out("NAME").mkdir(exist_ok=True)
ws.note("NAME_cost", {"seconds": 1.5})
"""


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Two small notebooks that do not depend on each other, a profile for them, and what runs them."""
    for stem, name in (("00_dataset", "one"), ("01_finetune", "two")):
        cells = [
            nbformat.v4.new_code_cell("RESULTS: str = 'x'\nSEED: int = 0", metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell(TINY.replace("NAME", name)),
        ]
        book = nbformat.v4.new_notebook(cells=cells, metadata={"language_info": {"name": "python"}})
        nbformat.write(book, tmp_path / f"{stem}.ipynb")
        (tmp_path / f"{stem}.yaml").write_text("SEED: 1\n")
    for module in (study, profiles, fingerprints):
        monkeypatch.setattr(module, "notebooks", lambda: sorted(tmp_path.glob("0*.ipynb")))

    def run(seed: int = 1, **options) -> dict:
        (tmp_path / "01_finetune.yaml").write_text(f"SEED: {seed}\n")
        study.run(str(tmp_path), str(ROOT / "docs"), str(tmp_path / "results"), **options)
        return json.loads((tmp_path / "results" / "manifest.json").read_text())

    return run, tmp_path / "results"


@pytest.mark.slow
def test_a_run_does_what_is_stale_and_names_who_made_what(tiny, capsys, monkeypatch):
    run, results = tiny
    notes = run(jobs=2)
    told = capsys.readouterr().out
    assert "[00_dataset] cell 3/3: import pandas as pd" in told
    assert {name: made["notebook"] for name, made in notes["tables"].items()} == {
        "one": "00_dataset",
        "two": "01_finetune",
    }
    assert list(notes["notebooks"]["00_dataset"]["artifacts"]) == ["one"]  # not what ran beside it
    assert notes["notebooks"]["01_finetune"]["measures"] == {"two_cost": {"seconds": 1.5}}
    assert notes["notebooks"]["01_finetune"]["parameters"]["SEED"] == 1
    (results / "tables" / "two.csv").write_text("edited")
    for module in (study, provenance):
        monkeypatch.setattr(module, "commit", lambda: "later")
    notes = run()
    assert capsys.readouterr().out.count("up to date") == 1
    assert pd.read_csv(results / "tables" / "two.csv")["seed"].tolist() == [1]
    made = {stem: entry["commit"] == "later" for stem, entry in notes["notebooks"].items()}
    assert made == {"00_dataset": False, "01_finetune": True}
    with pytest.raises(study.NotebookRefused, match="01_finetune, cell 3: give a seed from 0 "):
        run(seed=-1)
    assert pd.read_csv(results / "tables" / "two.csv")["seed"].tolist() == [1]
