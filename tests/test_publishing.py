"""What other services read: the workflows, the citation, Zenodo's file, the container's recipe."""

from __future__ import annotations

import json
import re

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


def test_the_citation_names_every_author_of_the_paper():
    """As its title page lists them."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["references"][0]["authors"]
    assert [author["family-names"] for author in cited] == [
        *("Shavlokhova", "Vollmer", "Zouboulis", "Vollmer", "Wollborn", "Lang", "Kübler", "Hartmann", "Stoll", "Roeder"),
        "Saravi",
    ]  # fmt: skip


def test_the_workflows_run_what_the_makefile_has():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    runs = {}
    for path in WORKFLOWS:
        # YAML 1.1 reads the key `on` as true.
        content = yaml.safe_load(path.read_text())
        steps = [step for job in content["jobs"].values() for step in job["steps"]]
        for command in (step["run"] for step in steps if "run" in step):
            program, target, *_ = command.split()
            assert program == "make" and target in targets, command
            runs.setdefault(tuple(content[True]), set()).add(target)
        versions = {step["with"]["python-version"] for step in steps if "setup-python" in step.get("uses", "")}
        assert versions == {"3.11"}
    assert runs == {
        ("push", "workflow_dispatch"): {"site"},
        ("push", "pull_request"): {"lint", "test", "papermill"},
        ("schedule", "workflow_dispatch"): {"papermill", "release-check"},
    }


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


def test_the_container_copies_what_exists():
    copies = [words.split() for name, words in instructions() if name == "COPY"]
    assert copies[-1][-2:] == [".", "."]
    for words in copies:
        assert words[0].startswith("--chown=study") and all((ROOT / source).exists() for source in words[1:-1])


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
