"""The runner: profiles, parameters, skipping, failing notebooks, and the whole walk through papermill."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from huggingface_hub import ModelCard

from dermstudy import cli, processor, workspace
from dermstudy.classification import feature_sets
from dermstudy.data import dataset
from dermstudy.diffusion import glide, weights
from dermstudy.entities import CODES
from dermstudy.files import InputError, atomic_path, sha256_file
from dermstudy.maintenance import card as model_card
from dermstudy.maintenance import packing, samplers
from dermstudy.readers import kit, workbook
from dermstudy.runner import executed, fingerprints, parallel, profiles, provenance, study

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
    made = {"commit": workspace.commit(), "processor": processor.instruction_set()}
    assert all(entry | made == entry and entry["source"] for entry in manifest["notebooks"].values())
    assert manifest["notebooks"]["01_finetune"]["measures"]["finetune_seconds"] > 0
    costs = manifest["notebooks"]["09_which_parts"]["measures"]["which_parts_costs"]
    assert all(costs["LoRA"][name] > 0 for name in ("seconds", "peak_megabytes"))
    for path in (smoke / "tables").glob("*.csv"):
        assert not {"seconds", "peak_megabytes"} & set(pd.read_csv(path).columns), path.name
    table, figure = (sha256_file(path) for path in (smoke / "tables" / "leak.csv", drawn["finetune_loss"]))
    assert manifest["tables"]["leak"] == {"notebook": "00_dataset", "sha256": table} | made
    assert manifest["figures"]["finetune_loss"] == {"notebook": "01_finetune", "sha256": figure} | made
    assert set(manifest["tables"]) == {path.stem for path in (smoke / "tables").glob("*.csv")}
    assert set(manifest["figures"]) == set(drawn)
    assert manifest["notebooks"]["01_finetune"]["artifacts"]["glide_base"] == made
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
               "dermstudy.runner.parallel", "01", "smoke", "--results", str(results)]  # fmt: skip
    with study.locked(workspace.open_workspace(results)):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode and done.stderr.count("another run is writing to") == 1
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("step     12/12") == 1
    study.run("smoke", results=str(results), only="01")
    assert "going on from step 12" in capsys.readouterr().out


def test_progress_bars_are_not_kept():
    bar = "\r  0%|          | 0/20 [00:00<?, ?it/s]\r  5%|▌         | 1/20 [00:00<00:02,  9.16it/s]\n"
    slow = "\r 50%|█████     | 2/4 [00:09<00:09,  4.50s/it]\n"
    assert executed.without_bars(bar + slow + "... 70 lines left out ...\n" + bar) == ""
    assert executed.without_bars(bar + "4 of 4 images\n" + slow) == "4 of 4 images\n"
    assert executed.without_bars("half: 50% | 1/2\n\n") == "half: 50% | 1/2\n\n"
    piece = nbformat.v4.new_output("stream", name="stderr", text=bar)
    assert executed.merged([piece]) == []


def test_long_progress_is_shortened():
    text = "".join(f"{n} of 300 images\n" for n in range(300))
    lines = executed.shortened(text).splitlines()
    assert len(lines) <= executed.MOST_LINES and lines[0] == "0 of 300 images" and lines[-1] == "299 of 300 images"
    assert f"... {300 - len(lines) + 1} lines left out ..." in lines and executed.shortened("one\ntwo") == "one\ntwo"


def test_what_a_cell_printed_in_pieces_is_one_text():
    pieces = [nbformat.v4.new_output("stream", name="stdout", text=f"{n}\n") for n in range(152)]
    table = nbformat.v4.new_output("display_data", data={"text/plain": "a table"})
    first, kept, last = executed.merged([*pieces[:150], table, *pieces[150:]])
    assert first.text.count("\n") <= executed.MOST_LINES and kept == table and last.text == "150\n151\n"


@pytest.mark.walk
def test_only_notebooks_with_a_tagged_cell_run_in_processes(smoke, capsys):
    assert parallel.main(["99", "smoke"]) == 2
    assert "no notebook '99'" in capsys.readouterr().err
    assert parallel.main(["05", "smoke", "--results", str(smoke)]) == 2
    assert "has no cell tagged 'parallel'" in capsys.readouterr().err


def test_a_note_is_a_measure_of_the_notebook_that_wrote_it(tmp_path):
    space = workspace.open_workspace(tmp_path / "results")
    before = study._contents(space)
    assert space.note("seconds", np.float64(1.5)) == 1.5 and space.note("costs", {"a": [1, "b"]})
    made = study._made(ROOT / "notebooks" / "01_finetune.ipynb", space, before)
    assert made["measures"] == {"seconds": 1.5, "costs": {"a": [1, "b"]}} and "notes" not in made["artifacts"]
    for name, value, message in (("a/b", 1, "named by a word"), ("image", object(), "note image is no number")):
        with pytest.raises(InputError, match=message):
            space.note(name, value)


def test_what_a_notebook_beside_it_wrote_is_not_its_own(tmp_path):
    space = workspace.open_workspace(tmp_path / "results")
    before = study._contents(space)
    for name in ("finetune_log", "inversion", "of_no_notebook"):
        (space.tables / f"{name}.csv").touch()
    for name in ("glide_base", "inversion"):
        (space.artifacts / name).mkdir()
    made = study._made(ROOT / "notebooks" / "01_finetune.ipynb", space, before)
    assert list(made["tables"]) == ["finetune_log", "of_no_notebook"] and list(made["artifacts"]) == ["glide_base"]


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


def test_what_older_code_made_keeps_its_commit(tmp_path, monkeypatch):
    """A rerun names what it wrote; a training that it found done, and another notebook, stay with their commits."""
    space = workspace.open_workspace(tmp_path / "results")
    chosen, state = profiles.load_profile("smoke"), {}

    def ran(number: str, *written: Path, stem: str = "01_finetune") -> dict:
        for module in (study, provenance):
            monkeypatch.setattr(module, "commit", lambda: number)
        before, notebook = study._contents(space), ROOT / "notebooks" / f"{stem}.ipynb"
        for path in written:
            path.parent.mkdir(exist_ok=True)
            path.write_text(number)
        (space.root / f"{stem}.ipynb").touch()
        state[stem] = {"source": number, "fingerprint": number, "commit": number, "seconds": 1.0}
        state[stem] |= study._made(notebook, space, before)
        provenance.write_manifest(space, chosen, state, stem)
        return json.loads((space.root / "manifest.json").read_text())

    training, model = space.out("glide_base_training") / "state", space.out("glide_base") / "weights"
    table, other = space.tables / "finetune_log.csv", space.tables / "cohort.csv"
    ran("one", other, stem="00_dataset")
    ran("one", training, model, table)
    state.clear()
    notes = ran("two", model, table)
    own = notes["notebooks"]["01_finetune"]
    assert own["commit"] == "two" and notes["notebooks"]["00_dataset"]["commit"] == "one"
    assert {name: made["commit"] for name, made in own["artifacts"].items()} == {
        "glide_base": "two", "glide_base_training": "one",
    }  # fmt: skip
    assert notes["tables"]["finetune_log"]["commit"] == "two" and notes["tables"]["cohort"]["commit"] == "one"
    training.write_text("by hand")
    assert ran("three", model)["notebooks"]["01_finetune"]["artifacts"]["glide_base_training"]["commit"] == ""


def test_the_trial_alone_names_the_protocol_that_it_was_run_under(tmp_path, monkeypatch):
    """An amendment and a rerun of 06 leave the trial with the page that it knew, as an older manifest names it too."""
    space, chosen = workspace.open_workspace(tmp_path / "results"), profiles.load_profile("smoke")
    for stem in ("06_cnn_classifier", provenance.TRIAL):
        (space.root / f"{stem}.ipynb").touch()
    own = {"source": "s", "fingerprint": "f", "commit": "run", "seconds": 1.0}
    older = {
        "profile": "smoke",
        "protocol": {"page": provenance.PROTOCOL, "commit": "first"},
        "notebooks": {provenance.TRIAL: own},
    }
    assert provenance.protocol_of(older) == "first" and provenance.protocol_of({"notebooks": {}}) == ""
    (space.root / "manifest.json").write_text(json.dumps(older))
    monkeypatch.setattr(provenance, "last_commit", lambda page: "amended")

    def after(stem: str) -> dict:
        provenance.write_manifest(space, chosen, {stem: own | provenance.fixed_by(stem)}, stem)
        return json.loads((space.root / "manifest.json").read_text())

    assert (
        provenance.protocol_of(after("06_cnn_classifier"))
        == "first"
        == provenance.protocol_of(after("06_cnn_classifier"))
    )
    assert "protocol" not in after("06_cnn_classifier")["notebooks"]["06_cnn_classifier"]
    assert provenance.protocol_of(after(provenance.TRIAL)) == "amended"


def test_what_a_notebook_refuses_is_bad_input(monkeypatch, capsys):
    def refused(*_, **__):
        raise study.NotebookRefused("07_ablation, cell 3: no folder elsewhere")

    monkeypatch.setattr(study, "run", refused)
    assert cli.main(["run", "smoke"]) == 2
    assert capsys.readouterr().err == "dermstudy: 07_ablation, cell 3: no folder elsewhere\n"


def test_a_cell_that_raises_an_input_error_ends_its_notebook_as_refused(tmp_path, monkeypatch):
    import papermill

    def execute(source, target, **_):
        Path(target).write_text("{}")
        cells = [("InputError", "no folder"), ("ValueError", "a fault")]
        raise papermill.exceptions.PapermillExecutionError(1, 3, "", *cells[len(raised)], [])

    monkeypatch.setattr(papermill, "execute_notebook", execute)
    space, raised, notebook = workspace.open_workspace(tmp_path), [], ROOT / "notebooks" / "00_dataset.ipynb"
    for kind in (study.NotebookRefused, study.NotebookFailed):
        with pytest.raises(study.NotebookFailed) as error:
            study._execute(notebook, space.root / notebook.name, {}, space, "smoke", {notebook.stem: ""})
        assert error.type is kind
        raised.append(kind)


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
def test_a_killed_run_goes_on_from_the_last_finished_notebook(tmp_path):
    results = tmp_path / "results"
    command = [sys.executable, "-m", "dermstudy.cli", "run", "smoke", "--results", str(results)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    for line in process.stdout:
        if line.startswith("[01_finetune] cell 5"):
            os.killpg(process.pid, signal.SIGKILL)
            break
    process.wait()
    assert (results / "00_dataset.ipynb").is_file() and not (results / "01_finetune.ipynb").exists()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.startswith("[01_finetune] cell 4"):
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            break
    rest, error = process.communicate(timeout=60)
    assert any(line.startswith("[00_dataset] up to date") for line in seen)
    assert process.returncode == 130
    assert "goes on from the last finished notebook" in error.splitlines()[-1], error
    assert not (results / "01_finetune.ipynb").exists()


@pytest.mark.slow
def test_papermill_runs_a_notebook_by_hand(tmp_path):
    import papermill

    rows = [
        ("k", f"{source}{code}{n}", source, code, "x") for code in CODES for source in ("AI", "original") for n in "ab"
    ]
    key = pd.DataFrame(rows, columns=kit.KEY_COLUMNS)
    answers = pd.concat([kit.simulated_answers(key, reader, 0.7, 0.8, 0) for reader in ("Ada", "Grete")])
    own = workbook.write_workbook(answers.drop(columns="provenance"), tmp_path / "own.xlsx")
    notebook = ROOT / "notebooks" / "05_dermatologist_study.ipynb"
    papermill.execute_notebook(
        str(notebook), str(tmp_path / "out.ipynb"),
        parameters={"RESULTS": str(tmp_path / "results"), "KIT_WORKBOOK": str(own), "BOOTSTRAP": 50},
        kernel_name="python3", cwd=str(ROOT / "notebooks"), progress_bar=False,
    )  # fmt: skip
    assert (tmp_path / "results" / "tables" / "reader_report.csv").is_file()
    areas = pd.read_csv(tmp_path / "results" / "tables" / "kit_source_auc.csv")
    assert set(areas["reader"]) == {"Ada", "Grete"}
    assert "readers of the kit" in (tmp_path / "out.ipynb").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("start", ["", "weights/glide-mini/base"])
def test_the_base_model_trains_at_the_papers_side(cohort, tmp_path, start):
    """Notebook 01 at 128 x 128, from nothing and from weights that were trained at 64 x 64."""
    import papermill

    results = tmp_path / "results"
    dataset.save_cohort(cohort, results / "artifacts" / "cohort")
    smoke = profiles.resolve(profiles.load_profile("smoke"), str(results))["01_finetune"]
    own = {"START": start, "SIDE": 128, "STEPS": 1, "BATCH": 2, "VALIDATE_EVERY": 1, "HELD_OUT": 7, "PREVIEW_STEPS": 1}
    papermill.execute_notebook(
        str(ROOT / "notebooks" / "01_finetune.ipynb"), str(tmp_path / "out.ipynb"), parameters=smoke | own,
        kernel_name="python3", cwd=str(ROOT / "notebooks"), progress_bar=False,
    )  # fmt: skip
    assert glide.load(results / "artifacts" / "glide_base").side == 128
    told = (tmp_path / "out.ipynb").read_text()
    assert "training images at 128 x 128" in told and ("trained at 64 x 64" in told) == bool(start)


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
        (["data", "phantom", "/no/such/folder", "--images", "20"], "20 phantom images cannot hold"),
    ],
)
def test_bad_arguments_end_in_one_line(arguments, message, capsys):
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_notebook_whose_table_or_figure_is_gone_is_not_up_to_date(tmp_path):
    space = workspace.open_workspace(tmp_path / "results")
    made = [
        space.artifacts / "model",
        space.tables / "log.csv",
        space.figures / "curve.png",
        space.figures / "sheet.jpg",
    ]
    for path in made:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("made")
    kept = {"artifacts": {"model": {}}, "tables": {"log": {}}, "figures": {"curve": {}, "sheet": {}}}
    state, prints = {"01_finetune": kept | {"fingerprint": "same"}}, {"01_finetune": "same"}
    assert study._up_to_date(space, state, "01_finetune", prints)
    for path in made:
        away = path.rename(tmp_path / "away")
        assert not study._up_to_date(space, state, "01_finetune", prints), path
        away.rename(path)


def test_a_table_or_figure_that_was_put_back_or_edited_is_not_up_to_date(tmp_path):
    space, notebook = workspace.open_workspace(tmp_path / "results"), ROOT / "notebooks" / "01_finetune.ipynb"
    before, paths = study._contents(space), [space.tables / "finetune_log.csv", space.figures / "finetune_log.png"]
    for path in paths:
        path.write_text("made")
    state, prints = (
        {"01_finetune": study._made(notebook, space, before) | {"fingerprint": "same"}},
        {"01_finetune": "same"},
    )
    assert study._up_to_date(space, state, "01_finetune", prints)
    for path in paths:
        path.write_text("earlier")
        assert not study._up_to_date(space, state, "01_finetune", prints), path
        path.write_text("made")
    assert study._up_to_date(space, state, "01_finetune", prints)


def test_a_file_in_the_root_is_an_input_like_any_other(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprints, "from_root", lambda value: tmp_path / value)
    seen = []
    for content in ("one", "another"):
        (tmp_path / "answers.xlsx").write_text(content)
        seen.append(fingerprints.inputs_hash({"WORKBOOK": "answers.xlsx", "KEY": "", "SEED": 0}))
    assert seen[0] != seen[1]


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


def test_the_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "dermstudy", "run", "nope"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("dermstudy: unknown profile 'nope'"), done.stderr


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
        ({"01_finetune": {"STEPPS": 3}}, "01_finetune the parameter STEPPS"),
        ({"01_finetune": {"STEPS": "many"}}, "of another type"),
        ({"all": {"NOBODY": 1}}, "which none of them declares"),
    ],
)
def test_unknown_parameters_are_errors(own, message):
    shared = own.pop("all", {})
    stems = {notebook.stem: own.get(notebook.stem, {}) for notebook in profiles.notebooks()}
    with pytest.raises(InputError, match=message):
        profiles.resolve(profiles.Profile("trial", "", shared, stems), "results/x")


def test_a_profile_changes_the_one_it_extends():
    base, twin = (profiles.load_profile(name) for name in ("ham10000", "published-twin"))
    assert twin.shared == base.shared and twin.own["04_metrics"] == base.own["04_metrics"]
    assert twin.own["01_finetune"] == base.own["01_finetune"] | {
        "TRAIN_ON": "all", "START": "results/published-twin/weights/base",
    }  # fmt: skip


def test_other_generators_paint_what_the_trial_takes_of_them():
    base = profiles.resolve(profiles.load_profile("ham10000"), "results/ham10000")
    for name, pool, whose in (
        ("ham10000-second", feature_sets.SECOND, "train"),
        ("ham10000-subset", feature_sets.OWN, "subset"),
    ):
        own = profiles.resolve(profiles.load_profile(name), f"results/{name}")
        assert own["01_finetune"]["START"] == f"results/{name}/weights/base"
        assert own["02_upsample"]["START"] == base["02_upsample"]["START"]
        assert (own["03_sample"]["FOR_TRIAL"], own["03_sample"]["PAIR_WITH"]) == (pool, whose)


def test_a_profile_that_extends_nothing_known_is_named(tmp_path, monkeypatch):
    for name, base in (("self", "self"), ("lost", "nowhere"), ("ring", "round"), ("round", "ring")):
        (tmp_path / "profiles").mkdir(exist_ok=True)
        (tmp_path / "profiles" / f"{name}.yaml").write_text(f"description: a trial\nextends: {base}\n")
    monkeypatch.setattr(profiles, "project_root", lambda: tmp_path)
    for name in ("self", "lost", "ring"):
        with pytest.raises(InputError, match="name another profile, and no ring of them"):
            profiles.load_profile(name)


def test_every_shipped_profile_resolves():
    for name in profiles.profile_names():
        profiles.resolve(profiles.load_profile(name), f"results/{name}")


def test_two_runs_do_not_write_to_one_folder(tmp_path):
    space = workspace.open_workspace(tmp_path / "results")
    with study.locked(space), pytest.raises(InputError, match="another run"):
        with study.locked(space):
            pass


def test_a_committed_folder_has_no_artifacts_and_can_be_locked(tmp_path):
    (tmp_path / "committed").mkdir()
    with study.locked(workspace.Workspace(tmp_path / "committed")):
        assert (tmp_path / "committed" / "artifacts").is_dir()


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (parallel, ["01", "smoke", "--results"]),
        (cli, ["reword"]),
    ],
)
def test_no_command_writes_to_the_results_of_a_run(tmp_path, capsys, command, arguments):
    space = workspace.open_workspace(tmp_path / "results")
    with study.locked(space):
        assert command.main([*arguments, str(space.root)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "another run is writing to" in error


def test_atomic_path_leaves_nothing_behind(tmp_path):
    target = tmp_path / "table.csv"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_notebooks_are_sources_with_the_papers_values():
    from dermstudy.published import paper

    for notebook in profiles.notebooks():
        content = nbformat.read(notebook, as_version=4)
        assert not [cell for cell in content.cells if cell.get("outputs")], notebook.name
        assert not [cell for cell in content.cells if cell.cell_type == "code" and "def " in cell.source], notebook.name
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
        packing.pack(folder)
    same = {"n": 70, "kid": 40.0, "low": 30.0, "high": 50.0, "precision": 0.5, "recall": 0.1}
    monkeypatch.setattr(samplers, "_measure", lambda *_: lambda setting: vars(setting) | same)
    compared = samplers.compare(None, None, None, None, None, None)
    compared.to_csv(folder / "tables" / samplers.TABLE, index=False)
    frame = dataset.open_cohort(space.artifacts / "cohort").frame
    samplers.image_counts(frame).to_csv(folder / "tables" / "images.csv")
    chosen = weights.lineage(folder) | {"sampling": samplers.sampling_of(compared)}
    (folder / weights.LINEAGE).write_text(json.dumps(chosen))
    with pytest.raises(InputError, match="was sampled with another"):
        packing.pack(folder, space)
    used = json.loads((space.root / "manifest.json").read_text())["notebooks"]["03_sample"]["parameters"]
    lineage = weights.lineage(folder)
    sampling = {name: used[name] for name in lineage["sampling"]}
    (folder / weights.LINEAGE).write_text(json.dumps(lineage | {"sampling": sampling}))
    with pytest.raises(InputError, match="holds other weights than"):
        packing.pack(folder, space)
    for stage in ("base", "upsampler"):
        shutil.rmtree(folder / stage)
        shutil.copytree(space.artifacts / f"glide_{stage}", folder / stage)
    with monkeypatch.context() as own:
        own.setattr(packing, "identity", lambda pipeline: "of another")
        with pytest.raises(InputError, match="was painted by other weights or older code: rerun 03 and 04"):
            packing.pack(folder, space)
    packing.pack(folder, space)
    text = (folder / "README.md").read_text()
    assert packing.verify(folder) > 20 and "{" not in text and "By notebook 04" in text
    card = ModelCard.load(folder / "README.md")
    overall = pd.read_csv(space.tables / "quality_audited.csv").query("entity == 'overall'").set_index("metric")
    measured = {result.metric_type: result for result in card.data.eval_results}
    assert set(measured) == set(model_card.HUB_METRICS)
    for metric, found in measured.items():
        assert found.dataset_split == "test"
        assert found.metric_value == pytest.approx(overall.loc[metric, "value"], abs=5e-4)
