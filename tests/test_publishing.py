"""What other services read: the workflows, the citation, Zenodo's file, the container's recipe."""

from __future__ import annotations

import fnmatch
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from dermstudy import __version__

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
RELATIONS = {
    "references",
    "isDerivedFrom",
    "isSupplementTo",
    "isDescribedBy",
    "cites",
}  # of DataCite, which Zenodo takes


def schema_faults(schema: str, *paths: Path) -> str:
    """What check-jsonschema says against files by one of the schemas that it carries; empty where they are valid."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize("schema", ["vendor.github-workflows", "custom.github-workflows-require-timeout"])
def test_the_workflows_fit_their_schema(schema):
    assert len(WORKFLOWS) == 2 and not schema_faults(schema, *WORKFLOWS)


def test_the_citation_names_every_author_of_the_paper():
    """As its title page lists them."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["references"][0]["authors"]
    assert [author["family-names"] for author in cited] == [
        *("Shavlokhova", "Vollmer", "Zouboulis", "Vollmer", "Wollborn", "Lang", "Kübler", "Hartmann", "Stoll", "Roeder"),
        "Saravi",
    ]  # fmt: skip


def test_a_workflow_with_a_wrong_key_is_seen(tmp_path):
    text = WORKFLOWS[0].read_text().replace("runs-on", "runs_on")
    (tmp_path / "wrong.yml").write_text(text)
    assert "runs_on" in schema_faults("vendor.github-workflows", tmp_path / "wrong.yml")


def test_the_workflows_run_what_the_makefile_has():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    runs = {}
    for path in WORKFLOWS:
        # YAML 1.1 reads the key `on` as true.
        content = yaml.safe_load(path.read_text())
        steps = [step for job in content["jobs"].values() for step in job["steps"]]
        for command in (step["run"] for step in steps if "run" in step):
            program, target = command.split()
            assert program == "make" and target in targets, command
            runs.setdefault(tuple(content[True]), set()).add(target)
        versions = {step["with"]["python-version"] for step in steps if "setup-python" in step.get("uses", "")}
        assert versions == {"3.11"}
    assert runs == {
        ("push", "pull_request"): {"lint", "test"},
        ("schedule", "workflow_dispatch"): {"study", "release-check"},
    }


def test_the_citation_fits_its_schema(tmp_path):
    assert not schema_faults("vendor.citation-file-format", ROOT / "CITATION.cff")
    (tmp_path / "CITATION.cff").write_text((ROOT / "CITATION.cff").read_text().replace("type: software", "type: study"))
    assert schema_faults("vendor.citation-file-format", tmp_path / "CITATION.cff")


def test_zenodo_and_citation_say_the_same():
    record = json.loads((ROOT / ".zenodo.json").read_text())
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert record["title"] == cited["title"] and record["license"] == cited["license"]
    assert record["version"] == cited["version"] == __version__
    assert [creator["name"] for creator in record["creators"]] == [author["name"] for author in cited["authors"]]
    assert (record["upload_type"], record["access_right"]) == ("software", "open")
    named = {entry["identifier"]: entry["relation"] for entry in record["related_identifiers"]}
    assert {entry["doi"] for entry in cited["references"]} <= set(named) and set(named.values()) <= RELATIONS


# The container


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their words, continued lines joined."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def ignored(name: str) -> bool:
    """Whether .dockerignore keeps a path, relative to the checkout, out of the build; patterns as Docker reads them."""
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line]
    for pattern in patterns:
        parts = Path(name).parts
        for end in range(1, len(parts) + 1):
            whole = "/".join(parts[:end])
            anywhere = pattern.startswith("**/") and fnmatch.fnmatch(parts[end - 1], pattern.removeprefix("**/"))
            # A star stops at a slash.
            if anywhere or (whole.count("/") == pattern.count("/") and fnmatch.fnmatch(whole, pattern)):
                return True
    return False


def test_the_container_starts_from_a_pinned_python():
    images = [words for name, words in instructions() if name == "FROM"]
    assert len(images) == 1
    name, tag = images[0].split(":")
    assert name == "python" and re.fullmatch(r"3\.11\.\d+-slim-[a-z]+", tag)


def test_the_container_copies_what_exists_and_is_not_ignored():
    copies = [words.split() for name, words in instructions() if name == "COPY"]
    assert copies[-1][-2:] == [".", "."]
    for words in copies:
        assert words[0].startswith("--chown=study")
        for source in words[1:-1]:
            assert (ROOT / source).exists() and (source == "." or not ignored(source)), source


def test_the_build_leaves_out_what_a_machine_made_and_keeps_the_rest():
    tracked = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True).stdout
    assert {name.split("/")[0] for name in tracked.splitlines() if ignored(name)} <= {".ci"}
    for name in (
        ".git/HEAD",
        ".venv/bin/python",
        "results/demo/artifacts/cohort/cohort.csv",
        "dermstudy/__pycache__/a.pyc",
    ):
        assert ignored(name), name
    assert not ignored("results/demo/tables/cohort.csv") and not ignored("dermstudy/data/dataset.py")


def test_the_container_runs_the_readmes_command_as_nobody_special():
    steps = instructions()
    names = [name for name, _ in steps]
    user = next(words for name, words in steps if name == "USER")
    assert user not in ("root", "0") and names.count("USER") == 1
    # All that is copied and made belongs to that user.
    assert names.index("USER") < names.index("COPY")
    made = next(words for name, words in steps if name == "RUN" and words.startswith("make"))
    assert made.startswith("make .venv/.installed") and ".venv" in (ROOT / "Makefile").read_text()
    command = json.loads(steps[-1][1])
    assert steps[-1][0] == "CMD" and command == ["make", "study"]
    assert re.search(r"^make study\b", (ROOT / "README.md").read_text(), re.M)


def test_the_environments_layer_holds_all_that_installing_reads():
    """What pyproject.toml names, and the rule's own prerequisites, are there before the rest is copied."""
    copied = [words.split()[1:-1] for name, words in instructions() if name == "COPY"]
    early = {source for sources in copied[:-1] for source in sources}
    rule = re.search(r"^\$\(STAMP\): (.+)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    assert {*rule, "Makefile", "README.md", "dermstudy/__init__.py"} <= early
