"""The report: every executed notebook as a page, linked, with described pictures and drawn formulas, nothing from the network."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from conftest import ROOT
from PIL import Image

from dermstudy import workspace
from dermstudy.files import InputError
from dermstudy_commands import cli
from dermstudy_commands.runner import profiles, report

DEMO = workspace.Workspace(ROOT / "results" / "demo")
STEMS = sorted(path.stem for path in DEMO.root.glob("*.ipynb"))


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return report.write(DEMO, tmp_path_factory.mktemp("pages") / "report")


@pytest.fixture(scope="module")
def soups(written) -> dict[str, BeautifulSoup]:
    return {
        path.stem: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in written.glob("*.html")
    }


def test_every_notebook_is_a_page_with_its_neighbours_and_its_finding(soups):
    assert set(soups) == {"index", *STEMS}
    for place, stem in enumerate(STEMS):
        soup = soups[stem]
        linked = {kind: [link["href"] for link in soup.select(f"nav.beside a.{kind}")] for kind in ("prev", "next")}
        assert linked["prev"] == [f"{STEMS[place - 1]}.html"] * (place > 0)
        assert linked["next"] == [f"{name}.html" for name in STEMS[place + 1 : place + 2]]
        assert {link["href"][1:] for link in soup.select("nav.wide ol ol a")} == {h["id"] for h in soup.find_all("h2")}
        headline = (DEMO.root / "findings" / f"{stem}.md").read_text().splitlines()[0]
        assert headline in soup.select_one("p.lead").get_text() and headline in soups["index"].get_text()


def test_pages_take_nothing_from_elsewhere(written, soups):
    for stem, soup in soups.items():
        for element in soup.select("[src], link[href]"):
            target = element.get("src") or element["href"]
            assert target.startswith("data:") or (written / target).is_file(), (stem, target)
        for link in soup.select("a[href]"):
            path, _, anchor = link["href"].partition("#")
            assert path.startswith("https://") or not path or (written / path).is_file(), (stem, path)
            if anchor and path.endswith((".html", "")) and not path.startswith("https://"):
                assert soups[path.removesuffix(".html") or stem].find(id=anchor), (stem, anchor)
        assert str(ROOT) not in str(soup)
    assert "http" not in (written / "report.css").read_text() + (written / "report.js").read_text()


def test_every_saved_figure_is_shown_once_and_described(written, soups):
    shown = [image for stem in STEMS for image in soups[stem].select("figure[id] img")]
    assert len({image["src"] for image in shown}) == len({image["alt"] for image in shown}) == len(shown)
    for name, picture in DEMO.pictures().items():
        assert (written / "figures" / picture.name).read_bytes() == picture.read_bytes(), name
    assert all(len(image["alt"]) > 30 for image in shown) and len(soups["index"].find_all("img")) == 2


def test_every_formula_of_the_notebooks_is_drawn():
    drawn = 0
    for notebook in profiles.notebooks():
        for cell in profiles.read_notebook(notebook).cells:
            if cell.cell_type == "markdown":
                page = BeautifulSoup(report.safe_html(cell.source), "html.parser")
                drawn += len(page.select("img.formula"))
                assert not re.search(r"\$|\\(frac|sum|sigma)", page.get_text()), (notebook.name, cell.source)
    assert drawn > 50
    with pytest.raises(InputError, match="cannot be drawn"):
        report.picture_of(r"\begin{cases}")


def test_the_first_page_says_what_was_asked_and_what_ran(soups):
    words = " ".join(soups["index"].main.get_text().split())
    notes = json.loads((DEMO.root / "manifest.json").read_text())
    assert report.QUESTION in words and "Nothing here is for diagnosis" in words and "procedural drawings" in words
    for fact in (notes["commit"], notes["data_hash"], notes["profile"], f"{notes['seconds']:.0f} seconds"):
        assert fact in words


@pytest.fixture
def small(tmp_path) -> workspace.Workspace:
    """A results folder with one notebook that somebody else wrote."""
    space = workspace.Workspace(tmp_path / "run")
    space.root.mkdir()
    picture = io.BytesIO()
    Image.new("RGB", (4, 3)).save(picture, "PNG")
    image = nbformat.v4.new_output("display_data", {"image/png": base64.b64encode(picture.getvalue()).decode()})
    evil = nbformat.v4.new_output(
        "display_data", {"text/html": "<script>alert(1)</script><table><tr><td>1</td></tr></table>"}
    )
    cells = [
        nbformat.v4.new_markdown_cell(
            "# 00 · Small\n\n**Question.** Is $a < b$?\n\n<img src=https://elsewhere.org/x.png>"
        ),
        nbformat.v4.new_markdown_cell("## Drawn\n\nSee [the code](../../dermstudy/files.py), [01](01_finetune.ipynb)."),
        nbformat.v4.new_code_cell("draw()", outputs=[image]),
        nbformat.v4.new_markdown_cell("The caption, with $x^2$.\n\nMore."),
        nbformat.v4.new_code_cell("look()", outputs=[evil]),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), space.root / "00_small.ipynb")
    shutil.copy(DEMO.root / "manifest.json", space.root)
    return space


def test_a_page_holds_nothing_that_runs_and_captions_its_pictures(small, tmp_path):
    report.write(small, tmp_path / "out")
    page = BeautifulSoup((tmp_path / "out" / "00_small.html").read_text(encoding="utf-8"), "html.parser")
    assert [script.get("src") for script in page.find_all("script")] == ["report.js"] and "alert" not in str(page)
    assert "elsewhere.org" not in str(page) and page.select("table td")
    figure = page.select_one("figure")
    assert figure["id"] == "00_small_1" and figure.img["alt"].startswith("Figure 00.1. Drawn. The caption")
    assert "The caption" in figure.figcaption.get_text() and page.main.get_text().count("The caption") == 1
    links = {link.get_text(): link["href"] for link in page.main.select("article a") if not link.get("class")}
    assert links["01"] == "01_finetune.html" and "the code" not in links


def test_a_report_replaces_itself_and_nothing_else(small, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["report", str(small.root), str(out)]) == cli.main(["report", str(small.root), str(out)]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{out}/index.html"] * 2
    (tmp_path / "mine").mkdir()
    assert cli.main(["report", str(small.root), str(tmp_path / "mine")]) == 2
    assert "is no report" in capsys.readouterr().err and not list((tmp_path / "mine").iterdir())
    (small.root / "00_small.ipynb").write_text("{")
    assert cli.main(["report", str(small.root), str(out)]) == 2 and (out / "index.html").is_file()


def test_results_without_executed_notebooks_are_refused(tmp_path):
    with pytest.raises(InputError, match="holds no executed notebooks"):
        report.write(workspace.Workspace(tmp_path), tmp_path / "out")
