"""The study as tasks: the workflow's plan, and tasks that leave what the notebooks look for."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from small_trial import write_synthetic

from dermstudy import workspace
from dermstudy.classification import fitting, study_runs
from dermstudy.classification.recipes import make_training_set
from dermstudy.data import dataset
from dermstudy.files import InputError
from dermstudy_commands.runner import profiles, task

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
    write_synthetic(cohort, space.out("synthetic"), 8)
    marks = space.notes / "tasks"
    marks.mkdir(parents=True)
    (marks / "notebook-03_sample").touch()
    return root


@pytest.fixture(scope="module")
def every(results):
    return profiles.complete("smoke", str(results))


@pytest.mark.slow
def test_the_plan_has_every_notebook_and_every_task_of_the_table(tmp_path, every):
    folder = tmp_path / "it's here"
    folder.mkdir()
    for stem in ("00_dataset", "03_sample", "09_which_parts"):  # a clone holds committed notebooks and no artifact
        (folder / f"{stem}.ipynb").write_text("{}")
    data = tmp_path / "a folder"
    data.mkdir()
    given = ["--cores", "1", "--config", "profile=smoke", f"data={data}", f"results={folder}"]
    planned = snakemake("-n", "-p", *given, folder=tmp_path)
    counts = dict(re.findall(r"^(notebook|sample|run)\s+(\d+)", planned, re.M))
    tasks = len(task.run_tasks_of(every)) + len(task.shared_tasks_of(every))
    assert counts == {"notebook": "10", "sample": "1", "run": str(tasks)}
    commands = [line for line in planned.splitlines() if "dermstudy" in line and "--results" in line]
    for line in commands:
        words = shlex.split(line)
        assert words[words.index("--results") + 1 :][:3] == [str(folder), "--data", str(data)]
    assert len(commands) > 10
    planned = snakemake("-n", "-p", "--cores", "1", "--config", "profile=demo", f"data={data}", folder=tmp_path)
    assert "results/demo-data/artifacts" in planned and not re.search(r"results/demo[/ ]", planned)


@pytest.mark.slow
def test_tasks_leave_what_the_notebook_reads(results, every, tmp_path):
    asked = "encode-generator-0", "keras-cnn-ladder-no-lesion-on-both-sides-0"
    done = [f"{results}/artifacts/notes/tasks/{name}" for name in asked]
    options = ["--cores", "2", "--config", "profile=smoke", f"results={results}", "--allowed-rules", "run"]
    snakemake(*done, *options, folder=tmp_path)
    space, runs = workspace.Workspace(results), task.run_tasks_of(every)
    (features,) = space.out("features").glob("*.npy")
    stem, one = runs[asked[1]]
    images = study_runs.open_images(space, every[stem])
    assert len(np.load(features)) == len(images.synthetic["generator"])
    network = study_runs.network_of(one.network, images, space, every[stem])
    assert fitting.kept_run(network, make_training_set(one.name, images), one.seeds[0]).is_dir()
    assert "Nothing to be done" in snakemake(*done, *options, "-n", folder=tmp_path)


@pytest.mark.slow
def test_a_probes_task_has_all_its_seeds_and_one_without_images_is_left_out(results, every, capsys):
    space, runs = workspace.Workspace(results), task.run_tasks_of(every)
    stem, one = runs["frozen-features-30-subset"]
    task.run(space, every[stem], one)
    assert "30 % subset: penalty" in capsys.readouterr().out
    task.run(space, every[stem], one)
    assert capsys.readouterr().out == ""  # kept
    task.run(space, every[stem], runs["frozen-features-all-originals-synthetic-of-the-second-generator-dose-1"][1])
    assert "second generator, dose 1 is left out: " in capsys.readouterr().out


def test_names_are_listed_and_an_unknown_one_says_how(results, capsys, monkeypatch):
    assert task.main(["smoke", "--list", "keras-cnn-as-published", "--results", str(results)]) == 0
    listed = capsys.readouterr().out.split()
    assert "keras-cnn-as-published-combined-0" in listed and all(name.startswith("keras-cnn-as") for name in listed)
    assert task.main(["smoke", "both", "--results", str(results)]) == 2
    assert "no task 'both' of smoke: --list prints their names" in capsys.readouterr().err
    assert task.main(["nothing", "--list"]) == 2
    asked: list[str] = []

    def complete(profile, results, data):
        asked.append(results)
        raise InputError("seen")

    monkeypatch.setattr(task, "complete", complete)
    assert task.main(["demo", "--list", "--data", "x"]) == task.main(["demo", "--list"]) == 2
    assert asked == ["results/demo-data", "results/demo-run"]  # real images into no committed folder


def test_the_page_lists_tasks_as_the_command_does():
    text = (ROOT / "docs" / "FULL_RUN.md").read_text(encoding="utf-8")
    asked = re.findall(r"runner\.task ham10000 --list ([a-z0-9-]+)", text)
    every = profiles.complete("ham10000", "results/ham10000")
    names = [*task.shared_tasks_of(every), *task.run_tasks_of(every)]
    assert asked and all(any(name.startswith(prefix) for name in names) for prefix in asked)
