"""The page that paints (Gradio): images from text, a place repainted, two entities blended.

Source: Shavlokhova et al., section 4, names a web application on GLIDE that needs up to twenty minutes an image.
"""

from __future__ import annotations

import base64
import html
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from dermstudy import workspace
from dermstudy.entities import CODES, NAMES, PROMPTS
from dermstudy.files import InputError
from dermstudy_commands import serving
from dermstudy_commands.web import generator

WAITING = 16  # visitors in the queue; the next one is told to come back
NOTICE = (
    "**For research on synthetic data only. Not for diagnosis, not for any clinical use, not for teaching what a disease "
    "looks like.** Every image is made by a model and says so."
)
ENTITY_CHOICES = [(NAMES[code], code) for code in CODES]
ONE_AT_A_TIME = {"api_visibility": "private", "concurrency_id": "painter", "concurrency_limit": 1}
STYLE = """
.painted { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 256px)); gap: 12px; }
.painted figure { margin: 0; }
.painted img { width: 100%; aspect-ratio: 1; border-radius: 6px; display: block; }
.painted figcaption { font-size: 0.85rem; display: flex; justify-content: space-between; gap: 8px; padding: 4px 2px; }
.said { min-height: 1.6em; }
"""


def application(folder: str | Path):
    """The page as a Gradio Blocks over the models in `folder` (base/ and upsampler/). InputError where they are missing."""
    gr = serving.gradio()
    painter = generator.Painter(folder)
    acts = actions(painter)
    with gr.Blocks(title="Synthetic dermatoscopic images", analytics_enabled=False, delete_cache=(600, 600)) as page:
        gr.Markdown(f"# Synthetic dermatoscopic images\n{NOTICE} Model: {html.escape(painter.name)}.")
        with gr.Tab("From text", elem_id="text"):
            _text_tab(acts)
        with gr.Tab("Repaint a place", elem_id="place"):
            _place_tab(acts, painter.side)
        with gr.Tab("Blend two entities", elem_id="blending"):
            _blend_tab(acts)
    return page.queue(max_size=WAITING)


def actions(painter: generator.Painter) -> SimpleNamespace:
    """What the page's buttons do: each takes the form's values, and gives pictures and a line of text."""
    import gradio as gr

    def generate(prompt, scale, steps, seed, count, progress=gr.Progress()):  # noqa: B008
        def act():
            wish = generator.checked(prompt, scale, steps, seed, count, painter.scales)
            return painter.paint(wish, _told(progress)), wish, {}, painter.told(prompt)

        return _answer(act, painter)

    def blend(first, second, share, scale, steps, seed, count, progress=gr.Progress()):  # noqa: B008
        def act():
            wish = generator.checked(prompt_of(first), scale, steps, seed, count, painter.scales)
            other = prompt_of(second)
            images = painter.paint(wish, _told(progress), (other, float(share)))
            return images, wish, {"blend": f"{painter.read(other)}, {share:g}"}, painter.told(wish.prompt, other)

        return _answer(act, painter)

    def repaint(drawing, prompt, scale, steps, seed, count, progress=gr.Progress()):  # noqa: B008
        def act():
            wish = generator.checked(prompt, scale, steps, seed, count, painter.scales)
            image, mask = picture_and_mask(drawing, painter.side)
            images = painter.repaint(wish, image, mask, _told(progress))
            return images, wish, {"repainted": f"{mask.mean():.0%} of the image"}, painter.told(prompt)

        return _answer(act, painter)

    def upload(path):
        try:
            image, converted = generator.opened(Path(path).read_bytes(), painter.side)
            return canvas(image), converted
        except InputError as error:
            return gr.skip(), str(error)

    def fresh(progress=gr.Progress()):  # noqa: B008
        wish = painter.usual(PROMPTS[CODES.index("nv")], int(time.time()) % 10_000)
        return canvas(painter.paint(wish, _told(progress))[0]), ""

    return SimpleNamespace(
        painter=painter, generate=generate, blend=blend, repaint=repaint, upload=upload, fresh=fresh
    )  # fmt: skip


def _told(progress):
    return lambda done, total, what: progress((done, total), desc=what)


def _answer(act, painter: generator.Painter):
    """Pictures and a line of text from `act`, with what was read where that is less; the line alone for a refused wish."""
    import gradio as gr

    started = time.monotonic()
    try:
        images, wish, notes, told = act()
    except InputError as error:
        return gr.skip(), str(error)
    line = f"{len(images)} image{'s' if len(images) > 1 else ''} in {time.monotonic() - started:.1f} s"
    if (read := painter.read(wish.prompt)) != wish.prompt:
        wish, notes = replace(wish, prompt=read), notes | {"prompt_whole": wish.prompt}
    return gallery(images, painter.name, wish, notes), "\n\n".join(filter(None, [line, html.escape(told)]))


def _numbers(count: int, acts: SimpleNamespace) -> list:
    """The fields that every tab has: guidance scale, steps, seed, number of images."""
    import gradio as gr

    steps = f"steps (up to {generator.STEPS[1]})"
    scale = f"guidance scale ({acts.painter.scales[0]:g} to {acts.painter.scales[1]:g})"
    with gr.Row():
        return [
            gr.Number(acts.painter.sampling["GUIDANCE_SCALE"], label=scale, elem_classes="scale"),
            gr.Number(int(acts.painter.sampling["BASE_STEPS"]), label=steps, precision=0, elem_classes="steps"),
            gr.Number(0, label="seed", precision=0, elem_classes="seed"),
            gr.Number(count, label=f"images (up to {generator.MOST})", precision=0, elem_classes="count"),
        ]


def _text_tab(acts: SimpleNamespace) -> None:
    import gradio as gr

    entity = gr.Radio(ENTITY_CHOICES, label="entity", value=CODES[0], elem_id="entity")
    prompt = gr.Textbox(PROMPTS[0], label="text, or your own words", max_lines=2, elem_id="prompt")
    inputs = [prompt, *_numbers(4, acts)]
    begin = gr.Button("Paint", variant="primary", elem_id="paint")
    said = gr.Markdown(elem_id="said", elem_classes="said")
    shown = gr.HTML(elem_id="shown", min_height=280)
    entity.change(prompt_of, entity, prompt, api_visibility="private", queue=False)
    gr.on([begin.click, prompt.submit], acts.generate, inputs, [shown, said], **ONE_AT_A_TIME)


def _place_tab(acts: SimpleNamespace, side: int) -> None:
    import gradio as gr

    with gr.Row():
        fresh = gr.Button("Start from a painted nevus", elem_id="fresh")
        given = gr.UploadButton("Start from an image of your own", elem_id="given")
    editor = gr.ImageEditor(
        label="mark the place to repaint",
        type="numpy",
        sources=(),
        transforms=(),
        layers=False,
        canvas_size=(side, side),
        fixed_canvas=True,
        brush=gr.Brush(default_size=24, colors=["#00FFFF"], color_mode="fixed"),
        elem_id="editor",
        height=420,
    )
    wanted = gr.Textbox(PROMPTS[CODES.index("mel")], label="what to paint there", max_lines=2, elem_id="wanted")
    numbers = _numbers(2, acts)
    again = gr.Button("Repaint", variant="primary", elem_id="repaint")
    said = gr.Markdown(elem_id="repaint_said", elem_classes="said")
    repainted = gr.HTML(elem_id="repainted", min_height=280)
    fresh.click(acts.fresh, None, [editor, said], **ONE_AT_A_TIME)
    given.upload(acts.upload, given, [editor, said], api_visibility="private")
    again.click(acts.repaint, [editor, wanted, *numbers], [repainted, said], **ONE_AT_A_TIME)


def _blend_tab(acts: SimpleNamespace) -> None:
    import gradio as gr

    with gr.Row():
        first = gr.Dropdown(ENTITY_CHOICES, value="nv", label="first", elem_id="first")
        second = gr.Dropdown(ENTITY_CHOICES, value="mel", label="second", elem_id="second")
        share = gr.Slider(0, 1, 0.5, step=0.05, label="share of the second", elem_id="share")
    numbers = _numbers(4, acts)
    mix = gr.Button("Blend", variant="primary", elem_id="blend")
    said = gr.Markdown(elem_id="blend_said", elem_classes="said")
    mixed = gr.HTML(elem_id="mixed", min_height=280)
    mix.click(acts.blend, [first, second, share, *numbers], [mixed, said], **ONE_AT_A_TIME)


def prompt_of(code: str) -> str:
    """The text that asks for an entity. InputError for an unknown code."""
    if code not in CODES:
        raise InputError(f"Unknown entity {code!r}: choose one of the list.")
    return PROMPTS[CODES.index(code)]


def gallery(images: np.ndarray, model: str, wish: generator.Wish, notes: dict) -> str:
    """The images inside the page, each with a link that saves it: no file of the server has to be reachable."""
    figures = []
    for place, image in enumerate(images):
        content = base64.b64encode(generator.png(image, model, wish, place, **notes)).decode()
        seed = (wish.seed + place) % 2**32
        source, name = f"data:image/png;base64,{content}", f"synthetic_seed{seed}.png"
        text = html.escape(f"synthetic image of {wish.prompt}", quote=True)
        figures.append(
            f'<figure><img alt="{text}" src="{source}"><figcaption><span>seed {seed}</span>'
            f'<a download="{name}" href="{source}">save</a></figcaption></figure>'
        )
    return f'<div class="painted">{"".join(figures)}</div>'


def canvas(image: np.ndarray) -> dict:
    """An image as the editor's unmarked background."""
    return {"background": image, "layers": [], "composite": image}


def picture_and_mask(drawing: dict | None, side: int) -> tuple[np.ndarray, np.ndarray]:
    """The editor's background, uint8 [side, side, 3], and what is drawn over it, bool [side, side].

    InputError where there is no background, or its size is another.
    """
    if not drawing or drawing.get("background") is None:
        raise InputError("There is no image yet: start from a painted nevus, or from an image of your own.")
    image = np.asarray(drawing["background"])[..., :3]
    mask = np.zeros(image.shape[:2], bool)
    for layer in drawing["layers"]:
        mask |= np.asarray(layer)[..., 3] > 0
    if image.shape[:2] != (side, side):
        raise InputError(f"The image is {image.shape[1]} x {image.shape[0]}: it must be {side} x {side}.")
    return np.ascontiguousarray(image), mask


def serve(folder: str | Path, port: int = 7860, host: str = "127.0.0.1", root_path: str = "") -> None:
    """Serve the page until interrupted. InputError where the port is taken or the models are missing."""
    say = f"{workspace.shown(folder)} at {{address}} (stop with Ctrl-C)"
    serving.serve(application(folder), port, host, say, STYLE, files=True, root_path=root_path)
