"""The page that paints: bounds of what can be asked, marks and provenance, what repainting leaves alone, real visitors."""

from __future__ import annotations

import base64
import html
import io
import re

import numpy as np
import pytest
from browser import CHROMIUM, FLAGS, Server
from conftest import ROOT
from PIL import Image

from dermstudy.diffusion import glide
from dermstudy.files import InputError
from dermstudy_commands.web import app, generator

MINI = ROOT / "weights" / "glide-mini"


@pytest.fixture(scope="module")
def painter():
    return generator.Painter(MINI, upsample_steps=2)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (("", 3, 10, 0, 1), "The text is empty"),
        (("m" * 201, 3, 10, 0, 1), "The text has 201 characters: keep it to 200"),
        (("melanoma", 30, 10, 0, 1), "guidance scale is 30: give a number from 1 to 10"),
        (("melanoma", 3, -5, 0, 1), "number of steps is -5: give a number from 1 to 100"),
        (("melanoma", 3, 2.5, 0, 1), "number of steps is 2.5: give a whole number"),
        (("melanoma", 3, 10, -1, 1), "seed is -1"),
        (("melanoma", 3, 10, 0, 10_000), "number of images is 10000: give a number from 1 to 8"),
        (("melanoma", 3, 10, 0, None), "number of images is None"),
        (("melanoma", float("nan"), 10, 0, 1), "guidance scale is nan"),
    ],
)
def test_a_wish_out_of_bounds_is_named(form, message):
    with pytest.raises(InputError, match=message):
        generator.checked(*form)


def test_a_model_with_a_guide_is_asked_for_no_more_than_its_guide_bears(painter):
    assert painter.base.guide_unet is not None and painter.scales == generator.GUIDED_SCALES
    with pytest.raises(InputError, match="guidance scale is 4: give a number from 1 to 3"):
        generator.checked("melanoma", 4, 10, 0, 1, painter.scales)
    usual = painter.usual("melanoma", 5)
    assert usual == generator.checked("melanoma", painter.sampling["GUIDANCE_SCALE"], usual.steps, 5, 1, painter.scales)
    assert str(usual.steps) == painter.sampling["BASE_STEPS"]


def test_one_seed_one_image_and_its_mark(painter):
    wish = generator.checked("melanoma", 3.0, 3, 7, 2)
    told = []
    images = painter.paint(wish, lambda *line: told.append(line))
    alone = painter.paint(generator.checked("melanoma", 3.0, 3, 8, 1))
    assert images.shape == (2, 256, 256, 3) and np.abs(images[1].astype(int) - alone[0]).mean() < 1
    assert (3, 3, "painting") in told and (1, 2, "enlarging") in told
    content = Image.open(io.BytesIO(generator.png(images[0], painter.name, wish, 0)))
    notes = content.text
    assert notes["prompt"] == "melanoma" and notes["seed"] == "7" and notes["model"].startswith("glide-mini ")
    assert "dermstudy" in notes["Software"] and "not for diagnosis" in notes["Description"]
    corner = (slice(225, 256), slice(170, 256))
    assert np.abs(np.asarray(content)[corner].astype(int) - images[0][corner]).mean() > 20
    assert np.array_equal(np.asarray(content)[:200], images[0][:200])


def test_a_visitor_is_told_what_was_read(painter):
    """A German sentence of 71 characters has more than 32 tokens: the line, the picture's name and its text say how far."""
    prompt = "ein dermatoskopisches Bild eines Melanoms auf dem Rücken eines <b>Mannes"
    acts = app.actions(painter)
    shown, line = acts.generate(prompt, 2.0, 1, 0, 1, progress=lambda *_, **__: None)
    read = "ein dermatoskopisches bild eines melanoms auf dem r"
    assert painter.read(prompt) == read and "the model reads 32; read: " in line and html.escape(f'"{read}"') in line
    assert f'alt="synthetic image of {read}"' in shown
    content = base64.b64decode(re.search('base64,([^"]+)', shown)[1])
    notes = Image.open(io.BytesIO(content)).text
    assert (notes["prompt"], notes["prompt_whole"]) == (read, prompt)
    _, line = acts.generate("melanoma", 2.0, 1, 0, 1, progress=lambda *_, **__: None)
    assert "read" not in line


def test_repainting_leaves_the_rest_alone(painter):
    image = painter.paint(generator.checked("melanocytic nevus", 3.0, 3, 0, 1))[0]
    mask = np.zeros((256, 256), bool)
    mask[100:160, 90:170] = True
    result = painter.repaint(generator.checked("melanoma", 3.0, 3, 1, 1), image, mask)[0]
    assert np.array_equal(result[~mask], image[~mask])
    assert np.abs(result[mask].astype(int) - image[mask]).mean() > 3
    for wrong, message in ((mask & False, "Nothing is marked"), (mask | True, "The whole image is marked")):
        with pytest.raises(InputError, match=message):
            painter.repaint(generator.checked("melanoma", 3.0, 3, 1, 1), image, wrong)


@pytest.mark.slow
def test_a_blend_runs_from_the_first_to_the_second(painter):
    base = painter.base
    settings = {"guidance_scale": 3.0, "num_inference_steps": 4, "seeds": [0]}
    pure = [base(prompt, **settings).astype(int) for prompt in ("melanocytic nevus", "melanoma")]
    mixed = [
        base("melanocytic nevus", blend=("melanoma", share), **settings).astype(int) for share in (0.0, 0.3, 0.7, 1.0)
    ]
    assert np.abs(mixed[0] - pure[0]).mean() < 0.1 and np.abs(mixed[-1] - pure[1]).mean() < 0.1
    distances = [np.abs(image - pure[1]).mean() for image in mixed]
    assert distances == sorted(distances, reverse=True)
    with pytest.raises(InputError, match="a share of 1.5 in the blend"):
        base("melanoma", blend=("melanoma", 1.5), **settings)


@pytest.mark.parametrize("content", [b"no image", b"\xff\xd8 broken", b"GIF89a" + b"0" * 40])
def test_an_upload_that_is_no_image(content):
    with pytest.raises(InputError, match="The file is not an image that can be read"):
        generator.opened(content, 256)


def test_uploads_are_bounded_and_cropped():
    with pytest.raises(InputError, match="The file has 6.0 MB: keep it to 5"):
        generator.opened(b"0" * 6_000_000, 256)
    stream = io.BytesIO()
    Image.fromarray(np.tile(np.arange(300, dtype=np.uint8)[None, :, None], (100, 1, 3))).save(stream, format="PNG")
    assert generator.opened(stream.getvalue(), 64)[0].shape == (64, 64, 3)


def test_a_drawing_without_an_image():
    with pytest.raises(InputError, match="There is no image yet"):
        app.picture_and_mask({"background": None, "layers": [], "composite": None}, 256)
    with pytest.raises(InputError, match="it must be 256 x 256"):
        app.picture_and_mask({"background": np.zeros((64, 64, 4), np.uint8), "layers": []}, 256)


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(InputError, match="no weights in"):
        app.application(tmp_path)
    assert glide.load(MINI / "base").side == 64


@pytest.fixture(scope="module")
def served():
    server = Server("app", "--weights", str(MINI))
    yield server
    server.kill()


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="needs Debian's chromium: apt-get install chromium")
def test_visitors_in_a_browser(served, tmp_path):
    """Paint, refuse, save, repaint, blend; then four visitors at once."""
    from playwright.sync_api import sync_playwright

    patient = {"timeout": 240_000}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_context(viewport={"width": 1280, "height": 1000}, accept_downloads=True).new_page()
        page.goto(served.address)
        page.get_by_text("Not for diagnosis").wait_for(**patient)
        text, numbers = page.locator("#prompt textarea, #prompt input").first, page.locator("#text input[type=number]")
        for field, value, back, message in (
            (text, "m" * 500, "melanoma", "keep it to 200"),
            (numbers.nth(1), "-5", "5", "number of steps is -5"),
            (numbers.nth(3), "10000", "2", "number of images is 10000"),
        ):
            field.fill(value)
            page.locator("#paint").click()
            page.locator("#said").get_by_text(message).wait_for(**patient)
            field.fill(back)
        page.locator("#entity label").nth(1).click()
        page.wait_for_function("document.querySelector('#prompt textarea, #prompt input').value.includes('nevus')")
        page.locator("#paint").click()
        page.locator("#shown img").nth(1).wait_for(**patient)
        with page.expect_download() as download:
            page.locator("#shown a[download]").first.click()
        download.value.save_as(tmp_path / "saved.png")
        assert Image.open(tmp_path / "saved.png").text["prompt"] == "melanocytic nevus"

        page.get_by_role("tab", name="Repaint a place").click()
        page.locator("#repaint").click()
        page.get_by_text("There is no image yet").wait_for(**patient)
        (tmp_path / "notes.txt").write_text("no image")
        page.locator("#given input[type=file], input[type=file]").first.set_input_files(tmp_path / "notes.txt")
        page.get_by_text("The file is not an image that can be read").wait_for(**patient)
        page.locator("input[type=file]").first.set_input_files(tmp_path / "saved.png")
        page.wait_for_function("!document.querySelector('#repaint_said').innerText.includes('not an image')", **patient)
        page.wait_for_timeout(1500)
        box = page.locator("#editor canvas").first.bounding_box()
        middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(*middle)
        page.mouse.down()
        for step in range(10):
            page.mouse.move(middle[0] + 4 * step, middle[1] + 4 * (step % 3))
        page.mouse.up()
        page.locator("#place input[type=number]").nth(3).fill("1")
        page.locator("#repaint").click()
        page.locator("#repainted img").first.wait_for(**patient)

        page.get_by_role("tab", name="Blend two entities").click()
        page.locator("#blending input[type=number]").last.fill("1")
        page.locator("#blend").click()
        page.locator("#mixed img").first.wait_for(**patient)

        visitors = [browser.new_context().new_page() for _ in range(4)]
        for visitor in visitors:
            visitor.goto(served.address)
            visitor.locator("#paint").wait_for(**patient)
            visitor.locator("#text input[type=number]").nth(3).fill("1")
        for visitor in visitors:
            visitor.locator("#paint").click()
        for visitor in visitors:
            visitor.locator("#shown img").first.wait_for(**patient)
        browser.close()
    assert served.process.poll() is None
