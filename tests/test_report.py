"""The report: every executed notebook as a page, linked, with its pictures, and nothing from the network."""

from __future__ import annotations

import re

import pytest
from conftest import ROOT

from dermstudy import cli, workspace
from dermstudy.files import InputError
from dermstudy.runner import report

DEMO = workspace.Workspace(ROOT / "results" / "demo")


def test_the_demo_as_pages(tmp_path, capsys):
    out = tmp_path / "report"
    assert cli.main(["report", str(DEMO.root), str(out)]) == 0
    assert "index.html" in capsys.readouterr().out
    stems = sorted(path.stem for path in DEMO.root.glob("*.ipynb"))
    index = (out / "index.html").read_text(encoding="utf-8")
    for place, stem in enumerate(stems):
        page = (out / f"{stem}.html").read_text(encoding="utf-8")
        assert f'href="{stem}.html"' in index and 'href="index.html"' in page
        assert place == 0 or f'href="{stems[place - 1]}.html"' in page
        assert "data:image/png;base64" in page
        assert not re.search(r'(src|href)="(https?:)?//[^"]+\.(js|css)', page)
        assert str(ROOT) not in page
    for name in re.findall(r'src="(figures/[^"]+)"', index):
        assert (out / name).is_file()
    assert report.write(DEMO, out) == out  # again, over the first


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(InputError, match="holds no executed notebooks"):
        report.write(workspace.Workspace(tmp_path), tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is no report"):
        report.write(DEMO, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "mine"
