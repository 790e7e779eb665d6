"""The study as tasks: the workflow's plan, and tasks that leave what the notebooks look for."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from dermstudy import workspace
from dermstudy.classification import protocol, runs, shipped_head, training, training_sets
from dermstudy.data import dataset
from dermstudy.files import InputError
from dermstudy.runner import task

SNAKEFILE = ROOT / "workflow" / "Snakefile"


def snakemake(*arguments: str, folder) -> str:
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), "--directory", str(folder), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def results(cohort, tmp_path_factory):
    """A results folder as notebook 03 leaves it: the phantom, and its own training images in place of synthetic ones."""
    root = tmp_path_factory.mktemp("workflow") / "results"
    space = workspace.Workspace(root)
    dataset.save_cohort(cohort, space.out("cohort"))
    chosen = cohort.frame[cohort.frame["split"] == "train"].groupby("dx").head(8)
    folder = space.out("synthetic")
    folder.mkdir(parents=True)
    made = chosen.assign(
        source_image_id=chosen["image_id"], image_id="synthetic_" + chosen["image_id"], seed=range(len(chosen))
    )
    made["file"] = made["image_id"] + ".jpg"
    for old, new in zip(chosen["file"], made["file"], strict=True):
        shutil.copy(cohort.root / old, folder / new)
    made[list(dataset.SYNTHETIC_COLUMNS)].to_csv(folder / "index.csv", index=False)
    marks = space.notes / "tasks"
    marks.mkdir(parents=True)
    (marks / "notebook-03_sample").touch()
    return root


@pytest.mark.slow
def test_the_plan_has_every_notebook_every_training_set_and_every_pool(tmp_path):
    planned = snakemake("-n", "--cores", "1", "--config", "profile=smoke", f"results={tmp_path}/r", folder=tmp_path)
    counts = dict(re.findall(r"^(notebook|sample|encode|heads|train|activations|tune)\s+(\d+)", planned, re.M))
    sets, tuned = len(protocol.TRAINING_SETS[protocol.KERAS]), len(protocol.TRAINING_SETS[protocol.TUNED])
    once = {"heads": str(len(task.FROZEN_SETS)), "notebook": "10", "sample": "1", "activations": "1"}
    steps = len(task.ladder_of(task.parameters("smoke", "results/smoke", notebook=task.CLASSIFIER)))
    assert steps == len(training_sets.LADDER) - 1  # of one generator alone
    trained = {"encode": "4", "train": str(2 * (sets + len(training_sets.PUBLISHED)) + steps), "tune": str(2 * tuned)}
    assert counts == once | trained


@pytest.mark.slow
def test_an_executed_notebook_without_its_artifacts_is_not_done(tmp_path):
    """A clone holds committed notebooks and no artifact."""
    folder = tmp_path / "results"
    folder.mkdir()
    for stem in ("00_dataset", "01_finetune", "02_upsample", "03_sample", "09_which_parts"):
        (folder / f"{stem}.ipynb").write_text("{}")
    planned = snakemake("-n", "--cores", "1", "--config", "profile=smoke", f"results={folder}", folder=tmp_path)
    assert re.search(r"^notebook\s+10$", planned, re.M)


@pytest.mark.slow
def test_real_images_go_into_no_committed_folder(tmp_path, monkeypatch):
    planned = snakemake("-n", "-p", "--cores", "1", "--config", "profile=demo", f"data={tmp_path}", folder=tmp_path)
    assert "results/demo-data/artifacts" in planned and not re.search(r"results/demo[/ ]", planned)
    asked: list[str] = []

    def parameters(profile, results, data, notebook):
        asked.append(results)
        raise InputError("seen")

    monkeypatch.setattr(task, "parameters", parameters)
    assert task.main(["demo", "train", "--data", str(tmp_path)]) == task.main(["demo", "train"]) == 2
    assert asked == ["results/demo-data", "results/demo"]


@pytest.mark.slow
def test_tasks_leave_what_the_notebook_reads(results, tmp_path):
    asked = "encode-generator-0", "train-all-originals-1", "tune-30-subset-1"
    done = [f"{results}/artifacts/notes/tasks/{name}" for name in asked]
    options = ["--cores", "2", "--config", "profile=smoke", f"results={results}", "--allowed-rules"]
    options += ["encode", "train", "activations", "tune"]
    snakemake(*done, *options, folder=tmp_path)
    space, own = workspace.Workspace(results), task.parameters("smoke", str(results))
    (features,) = space.out("features").glob("*.npy")
    gathered = task.images(space, own)
    assert len(np.load(features)) == len(gathered.synthetic["generator"])
    chosen = training_sets.audited_set(protocol.ORIGINALS, gathered.originals, gathered.synthetic)
    config = task.config_of(own)
    threads = training.threads_of(own["WORKERS"])
    assert training._kept(chosen, config, 1, space.out("classifier"), threads).is_dir()
    (tuned,) = (job for job in task._jobs(space, own, [1]) if job.name == protocol.SUBSET)
    assert tuned.keeps.is_file()
    again = snakemake(*done, *options, folder=tmp_path)
    assert "Nothing to be done" in again


@pytest.mark.slow
def test_a_step_of_the_ladder_is_the_one_that_06_finds(results):
    own, space = task.parameters("smoke", str(results), notebook=task.CLASSIFIER), workspace.Workspace(results)
    step = training_sets.LADDER[2]
    command = [sys.executable, "-m", "dermstudy.runner.task", "smoke", "train", "--set", f"ladder, {step}"]
    subprocess.run(
        [*command, "--results", str(results)], cwd=ROOT, check=True
    )  # TensorFlow's threads are set once a process
    cohort, made = (dataset.open_cohort(space.out("cohort")), dataset.open_synthetic(space.out("synthetic")))
    originals = runs.gather(cohort, {"generator": made}, own["ORIGINALS"], own["SEED"]).originals
    dealt = originals, training_sets.one_an_original(made, originals), None, own["SEED"], own["TEST_FRACTION"]
    chosen = training_sets.ladder(*dealt)[step]
    threads = training.threads_of(own["WORKERS"])
    assert training._kept(chosen, task.config_of(own), 0, space.out("classifier"), threads).is_dir()
    with pytest.raises(InputError, match="no step 'ladder, generator without test lesions' of 06's ladder here"):
        task.climb(space, own, f"ladder, {training_sets.LADDER[-1]}", 0)


@pytest.mark.slow
def test_heads_of_one_training_set_are_those_that_the_notebook_finds(results, capsys):
    own, space = task.parameters("smoke", str(results)), workspace.Workspace(results)
    task.heads(space, own, protocol.SUBSET)
    assert f"{protocol.SUBSET}: {own['FROZEN_SEEDS']} seeds" in capsys.readouterr().out
    settings = shipped_head.load_head(workspace.from_root(own["HEAD"])).settings
    seeds, gathered = range(own["FROZEN_SEEDS"]), task.images(space, own)
    found = runs.frozen_runs(gathered, settings, seeds, space.out("features"), own["AUGMENTED"], own["SEED"])
    said = capsys.readouterr().out  # a line a training set that was trained, none for one that was found
    assert f"{protocol.ORIGINALS}: " in said and f"{protocol.SUBSET}: " not in said
    assert set(found.predictions.runs["training_set"]) == set(runs.frozen_sets(gathered, own["AUGMENTED"])[0])
    task.heads(space, own, protocol.SECOND)
    assert f"{protocol.SECOND} is left out: " in capsys.readouterr().out
    with pytest.raises(InputError, match="no training set 'longer training' for the head on frozen features"):
        task.heads(space, own, protocol.LONGER)


def test_a_task_that_cannot_be_done_says_so_in_a_line(results, capsys):
    own, space = task.parameters("smoke", str(results)), workspace.Workspace(results)
    with pytest.raises(InputError, match="no pool 'second generator' in this profile: it has originals, generator"):
        task.encode(space, own, "second generator", 0)
    with pytest.raises(InputError, match="no training set 'longer training' for the fine-tuned network here"):
        task.tune(space, own, protocol.LONGER, 0)
    with pytest.raises(InputError, match="no view 7"):
        task.encode(space, own, "originals", 7)
    assert task.main(["smoke", "train", "--set", "both", "--results", str(results)]) == 2
    assert "unknown training set 'both'" in capsys.readouterr().err
    assert task.main(["nothing", "train"]) == 2


def test_the_page_gives_a_task_for_every_run_that_the_protocol_plans():
    """docs/RUNNING.md's commands for the two networks that take hours, its loops read as a shell does."""
    text = (ROOT / "docs" / "RUNNING.md").read_text(encoding="utf-8")
    commands = re.search(r"```\n# the last blocks fine-tuned.+?```", text, re.S)[0]
    tuned, trained, climbed = re.split(r"# the small convolutional network|# the ladder", commands)
    assert sorted(re.findall(r'"(ladder, [^"]*)"', climbed)) == sorted(task.LADDER)
    own = task.parameters("ham10000", "results/ham10000", notebook=task.CLASSIFIER)
    assert (
        f"for seed in {' '.join(map(str, own['SEEDS']))};" in climbed and f": {5 * len(own['SEEDS'])} runs" in climbed
    )
    for part, sets, word in ((tuned, task.TUNED_SETS, "tune"), (trained, task.SETS, "train")):
        named = re.findall(r'"((?:all|30|longer|as published)[^"]*)"', part)
        assert sorted(named) == sorted(sets)
        assert "for seed in 0 1 2 3 4;" in part and f"dermstudy.runner.task ham10000 {word} --set" in part
    assert protocol.SEEDS[protocol.TUNED] == protocol.SEEDS[protocol.KERAS] == 5
    loop = re.search(r"for seed.+?(?= \|\n)", trained, re.S)[0]
    listed = subprocess.run(["sh", "-c", loop], capture_output=True, text=True, check=True).stdout.split("\0")
    assert sorted(set(listed[:-1:2])) == sorted(task.SETS) and len(listed[:-1]) == 2 * 5 * len(task.SETS)
