"""The report: every executed notebook as a page, linked, with its pictures described, and nothing from the network."""

from __future__ import annotations

import base64
import io
import json
import os
import re
from pathlib import Path

import nbformat
import pytest
from browser import CHROMIUM, FLAGS
from bs4 import BeautifulSoup
from conftest import ROOT
from PIL import Image

from dermstudy import cli, workspace
from dermstudy.data.dataset import ARCHIVE
from dermstudy.files import InputError
from dermstudy.runner import article, report
from dermstudy.runner.openings import TAG

DEMO = workspace.Workspace(ROOT / "results" / "demo")
STEMS = sorted(path.stem for path in DEMO.root.glob("*.ipynb"))
CONTRAST = """() => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => rgb.slice(0, 3).map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = channels(getComputedStyle(element).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const ratios = [];
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !element.checkVisibility({ opacityProperty: true })) continue;
    const [a, b] = [light(channels(getComputedStyle(element).color)), light(behind(element))].sort((x, y) => y - x);
    ratios.push([(a + 0.05) / (b + 0.05), element.tagName + " " + element.textContent.slice(0, 40)]);
  }
  return ratios.sort((x, y) => x[0] - y[0]);
}"""


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return report.write(DEMO, tmp_path_factory.mktemp("pages") / "report")


@pytest.fixture(scope="module")
def soups(written) -> dict[str, BeautifulSoup]:
    return {
        path.stem: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in written.glob("*.html")
    }


def test_every_notebook_is_a_page_with_its_neighbours(soups):
    assert set(soups) == {"index", *STEMS}
    for place, stem in enumerate(STEMS):
        soup = soups[stem]
        assert {link["href"].removesuffix(".html") for link in soup.select("nav.wide > ol > li > a")} == {
            "index",
            *STEMS,
        }
        linked = {kind: [link["href"] for link in soup.select(f"nav.beside a.{kind}")] for kind in ("prev", "next")}
        assert linked["prev"] == [f"{STEMS[place - 1]}.html"] * (place > 0)
        assert linked["next"] == [f"{name}.html" for name in STEMS[place + 1 : place + 2]]
        assert {link["href"][1:] for link in soup.select("nav.wide ol ol a")} == {h["id"] for h in soup.find_all("h2")}


def test_pages_take_nothing_from_elsewhere(written, soups):
    for stem, soup in soups.items():
        for element in soup.select("[src], link[href]"):
            target = element.get("src") or element["href"]
            assert target == "data:," or (written / target).is_file(), (stem, target)
        for link in soup.select("a[href]"):
            path, _, anchor = link["href"].partition("#")
            assert path.startswith("https://") or not path or (written / path).is_file(), (stem, path)
            if anchor and path.endswith((".html", "")) and not path.startswith("https://"):
                assert soups[path.removesuffix(".html") or stem].find(id=anchor), (stem, anchor)
        assert str(ROOT) not in str(soup) and "style" not in {element.name for element in soup.find_all()}
    assert "http" not in (written / "report.css").read_text() + (written / "report.js").read_text()


def test_every_figure_is_shown_once_and_described(written, soups):
    manifest = json.loads((DEMO.root / "manifest.json").read_text())
    for stem in STEMS:
        content = nbformat.read(DEMO.root / f"{stem}.ipynb", as_version=4)
        drawn = [o for cell in content.cells for o in cell.get("outputs", []) if article.picture_of(o)]
        images = soups[stem].select("figure[id] img")
        assert len(images) == len(drawn)
        (leading,) = soups[stem].select("figure.opening")
        assert leading.find_previous("p")["class"] == ["lead"] and len(leading.img["alt"]) > article.SAYS
        assert soups[stem].find(id=leading.a["href"][1:]).img["src"] == leading.img["src"]
        assert len({image["alt"] for image in images}) == len(images)
        for image in images:
            name = image["src"].removeprefix("figures/").rsplit(".")[0]
            heading = image.find_previous(["h2", "h3"]).contents[0]
            assert image["alt"].startswith(heading) and image["alt"][-1] in ".?", image["alt"]
            assert (
                len(image["alt"]) > len(heading) + 20
                and len(image["alt"]) > article.SAYS
                and f"{name}." not in image["alt"]
            )
            assert (written / image["src"]).read_bytes() == DEMO.pictures()[name].read_bytes()
            assert manifest["figures"][name]["notebook"] == stem
    assert [image["alt"] for image in soups["index"].find_all("img")]


def test_captions_stand_under_their_figures_and_nowhere_else(soups):
    caption = soups["07_ablation"].find(id="ablation_loss").figcaption.get_text()
    assert re.search(r"Figure 07\.\d", caption) and "One line a seed" in caption
    assert soups["07_ablation"].main.get_text().count("One line a seed") == 1
    assert "One line a seed" in soups["07_ablation"].find(id="ablation_loss").img["alt"]


def test_code_and_parameters_lie_behind_a_summary(soups):
    for stem in STEMS:
        content = nbformat.read(DEMO.root / f"{stem}.ipynb", as_version=4)
        code = [cell for cell in content.cells if cell.cell_type == "code"]
        folded = soups[stem].select("details.code")
        assert len(folded) == len(code) and not soups[stem].select("details[open]")
        assert [one.summary.get_text().split()[0] for one in folded[:3]] == ["Parameters:", "Parameters", "Code,"]
        assert folded[1].summary.get_text() == "Parameters of the profile demo"
        assert not [box for box in soups[stem].select(".highlight") if not box.find_parent("details")]


def test_the_first_page_says_what_was_asked_and_what_ran(soups):
    words = " ".join(soups["index"].main.get_text().split())
    notes = json.loads((DEMO.root / "manifest.json").read_text())
    assert report.QUESTION in words and "Nothing here is for diagnosis" in words
    for fact in (notes["commit"], notes["data_hash"], notes["profile"], f"{notes['seconds']:.0f} seconds"):
        assert fact in words
    for name, version in notes["packages"].items():
        assert f"{name} {version}" in words
    for entry, stem in zip(soups["index"].select(".cards li"), STEMS, strict=True):
        question = nbformat.read(DEMO.root / f"{stem}.ipynb", as_version=4).cells[0].source.split("**Question.** ")[1]
        assert entry.a["href"] == f"{stem}.html" and entry.p.get_text()[-1] in "?."
        assert question.startswith(entry.p.get_text()[:30])


def test_the_command_writes_again_over_its_own(written, capsys):
    (written / "old.html").touch()
    assert cli.main(["report", str(DEMO.root), str(written)]) == 0
    assert "report/index.html" in capsys.readouterr().out
    assert {path.stem for path in written.glob("*.html")} == {"index", *STEMS}


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(InputError, match="holds no executed notebooks"):
        report.write(workspace.Workspace(tmp_path), tmp_path / "out")
    for name in ("thesis.txt", "index.html"):  # a site of one's own is no report either
        (tmp_path / name[0]).mkdir()
        (tmp_path / name[0] / name).write_text("mine")
        with pytest.raises(InputError, match="is no report"):
            report.write(DEMO, tmp_path / name[0])
        assert (tmp_path / name[0] / name).read_text() == "mine"


def test_a_broken_notebook_is_named_and_nothing_is_written(tmp_path):
    (tmp_path / "manifest.json").write_text('{"notebooks": {}}')
    (tmp_path / "00_dataset.ipynb").write_text("{")
    with pytest.raises(InputError, match="00_dataset.ipynb is no notebook"):
        report.write(workspace.Workspace(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# A small notebook


def png(width: int = 300, dpi: int = 150) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, 90), "white").save(stream, format="PNG", dpi=(dpi, dpi))
    return stream.getvalue()


def drawing(source: str, *more) -> nbformat.NotebookNode:
    data = {"image/png": base64.b64encode(png(200, 96)).decode(), "text/plain": "<Figure>"}
    return nbformat.v4.new_code_cell(source, outputs=[nbformat.v4.new_output("display_data", data), *more])


@pytest.fixture
def small(tmp_path) -> article.Page:
    markdown, output = nbformat.v4.new_markdown_cell, nbformat.v4.new_output
    table = (
        '<style scoped>td {color: red}</style><table border="1" class="dataframe"><thead><tr style="text-align: right;">'
        "<th></th><th>name_of_the_entity</th><th>n</th></tr><tr><th>entity</th><th></th><th></th></tr></thead>"
        "<tbody><tr><th>a</th><td>melanoma</td><td>1,113</td></tr><tr><th>b</th><td>nevus</td><td>-0.5</td></tr></tbody></table>"
    )
    finding = output("display_data", {"text/markdown": "**Finding.** It helps (0.1 to 0.2). More below."})
    cells = [
        markdown("# A title\n\n**Question.** Is it so, as Kim et al. Said? Or not?"),
        nbformat.v4.new_code_cell("say()", outputs=[finding]),
        markdown("## First section\n\nSee [the next](01_other.ipynb)."),
        drawing('ws.save_figure(figure, "kept");'),
        markdown("Left: *one* thing. Right: another.\n\nThis stays in the text."),
        drawing("plt.show()"),
        drawing('ws.save_figure(figure, "of_another_run")'),
        nbformat.v4.new_code_cell("table", outputs=[output("execute_result", {"text/html": table})]),
        markdown("## Last section"),
        nbformat.v4.new_code_cell("train()", outputs=[output("stream", text="step\n" * 40)]),
    ]
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "kept.png").write_bytes(png())
    (tmp_path / "figures" / "of_another_run.png").write_bytes(png(400))
    (tmp_path / "figures" / "kept.pdf").write_bytes(b"%PDF")
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "00_small.ipynb")
    notes = {"profile": "mine", "notebooks": {}, "figures": {"kept": {"notebook": "00_small"}}}
    return article.read(tmp_path / "00_small.ipynb", workspace.Workspace(tmp_path), notes)


def test_the_figure_of_the_file_or_else_the_notebooks_own(small):
    kept, own, stale = small.figures
    assert (kept.file, kept.picture, kept.pdf, kept.width) == ("kept.png", png(), b"%PDF", 192)
    assert (own.file, own.picture, own.pdf, own.width) == ("00_small_2.png", png(200, 96), None, 200)
    assert (
        kept.alt == "First section. Left: one thing. Right: another."
        and kept.caption == "Left: *one* thing. Right: another."
    )
    assert (stale.name, stale.picture) == ("of_another_run", png(200, 96))  # whose the file is, no manifest says
    assert own.caption == "" and own.alt == "First section. This stays in the text."
    words = BeautifulSoup(small.article, "html.parser").get_text()
    assert words.count("Right: another.") == 1 and "<p>This stays in the text.</p>" in small.article
    assert 'href="figures/kept.pdf"' in small.article and "base64" not in small.article


def test_question_finding_and_links(small):
    assert small.title == "A title" and small.question == "Is it so, as Kim et al. Said?"
    assert small.finding == "It helps (0.1 to 0.2)."
    assert 'href="01_other.html"' in small.article
    assert [section.title for section in small.sections] == ["First section", "Last section"]


def test_the_figure_of_an_opening_stands_below_the_finding_and_leads_to_its_place(tmp_path):
    opening = nbformat.v4.new_markdown_cell("**Finding.** So it is.\n\n![So it is.](figures/kept.png)")
    opening.metadata["tags"] = [TAG]
    named = (
        "real images are drawn in your own run only; each is at " + ARCHIVE + "\nmelanoma: ISIC_0024310, ISIC_0024315"
    )
    printed = nbformat.v4.new_code_cell("tell()", outputs=[nbformat.v4.new_output("stream", text=named)])
    cells = [nbformat.v4.new_markdown_cell("# A title"), opening, drawing('ws.save_figure(figure, "kept")'), printed]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "00_small.ipynb")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "kept.png").write_bytes(png())
    notes = {"profile": "mine", "notebooks": {}, "figures": {"kept": {"notebook": "00_small"}}}
    page = BeautifulSoup(
        article.read(tmp_path / "00_small.ipynb", workspace.Workspace(tmp_path), notes).article, "html.parser"
    )
    first, second = page.find_all("figure")
    assert first["class"] == ["opening"] and first.find_previous("p").get_text() == "Finding. So it is."
    assert first.a["href"] == "#kept" and second["id"] == "kept" and first.img["alt"] == "So it is."
    links = [link["href"] for link in page.select("pre a")]
    assert links == [ARCHIVE.replace("NAME", name) for name in ("ISIC_0024310", "ISIC_0024315")]


def test_tables_stand_in_boxes_with_one_head_and_numbers_flush_right(small):
    soup = BeautifulSoup(small.article, "html.parser")
    box = soup.table.parent
    assert box["class"] == ["scroll"] and box["aria-label"] == "Table: First section"
    assert [cell.get_text() for cell in soup.select("thead th")] == ["entity", "name_of_the_entity", "n"]
    assert soup.select("thead tr")[-1].find_all("th")[1].wbr and "<style" not in small.article
    assert [cell.get_text() for cell in soup.select("td.number")] == ["1,113", "-0.5"]


def test_long_prints_lie_behind_a_summary(small):
    log = BeautifulSoup(small.article, "html.parser").select("details.log")
    assert len(log) == 1 and log[0].summary.get_text() == "Printed, 40 lines"


# In a browser


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        pytest.skip("needs Debian's chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [420, 1280])
def test_pages_in_a_browser(written, browser, width, scheme, tmp_path):
    """No sideways scroll, no error, no request but for the folder's own files, every picture there, every text readable."""
    shots = Path(os.environ.get("DERMSTUDY_SCREENSHOTS", tmp_path))
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    for stem in ("index", *STEMS):
        page.goto((written / f"{stem}.html").as_uri())
        if stem != "index":
            page.screenshot(path=shots / f"report_{stem}_{width}_{scheme}.png")
            page.locator("#code").click()
            assert page.locator("details.code[open]").count() == page.locator("details.code").count() > 5
        else:
            page.screenshot(path=shots / f"report_{stem}_{width}_{scheme}.png", full_page=True)
        page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), stem
        assert page.evaluate("[...document.images].every((one) => one.naturalWidth > 0 && one.alt.trim())"), stem
        ratios = page.evaluate(CONTRAST)
        assert len(ratios) > 50 and ratios[0][0] >= 4.5, (stem, ratios[0])
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    context.close()
    assert not said and not [url for url in asked if not url.startswith(written.as_uri()) and url != "data:,"]


def test_the_choice_of_colours_is_kept_between_pages(written, browser):
    page = browser.new_context(color_scheme="light").new_page()

    def shown() -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    page.goto((written / "index.html").as_uri())
    before = shown()
    page.locator("#theme").click()
    assert shown() != before and page.locator("#theme").inner_text() == "Light"
    page.goto((written / f"{STEMS[0]}.html").as_uri())
    assert shown() != before
    page.locator("#theme").click()
    assert shown() == before
    page.context.close()


def test_pages_print_on_white_without_what_is_for_screens(written, browser):
    page = browser.new_context(
        color_scheme="dark", viewport={"width": 658, "height": 960}
    ).new_page()  # A4, less margins
    page.emulate_media(media="print", color_scheme="dark")
    for stem in ("index", *STEMS):
        page.goto((written / f"{stem}.html").as_uri())
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), stem
        assert page.evaluate(CONTRAST)[0][0] >= 4.5
        for hidden in ("header", "nav", "details"):
            assert not page.locator(hidden).filter(visible=True).count(), (stem, hidden)
    assert page.locator("figure img").first.is_visible()
    page.context.close()
