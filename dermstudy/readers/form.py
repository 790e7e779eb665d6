"""The browser form of a reader study: one image at a time, by keyboard, mouse or touch (Gradio).

The page holds pixels and names without meaning; the key is never opened here.
"""

from __future__ import annotations

import base64
import html
import os
from pathlib import Path

from dermstudy import pages
from dermstudy.entities import ENTITIES
from dermstudy.files import InputError
from dermstudy.readers import kit, store
from dermstudy.readers.workbook import SOURCE_ANSWERS

SOURCE_LABELS = {"AI": "AI (A)", "original": "original (O)", "unsure": "unsure (U)"}
STYLE = """
#welcome { max-width: 620px; margin: 6vh auto; }
#study { width: 100%; align-self: stretch; }
#study > * { flex: 1 1 340px !important; }
#picture img { width: min(100%, 80vh); aspect-ratio: 1; display: block; margin: auto; border-radius: 6px; }
#progress .bar { background: #dde3ea; border-radius: 4px; height: 8px; }
#progress .done { background: #332288; border-radius: 4px; height: 8px; }
#entity .wrap, #source .wrap, #confidence .wrap { gap: 8px; }
#entity label, #source label, #confidence label { min-height: 46px; }
#entity .wrap { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); }
#source .wrap, #confidence .wrap { display: grid; grid-auto-flow: column; grid-auto-columns: 1fr; }
#source label, #confidence label { padding: 8px; }
#back, #save { min-height: 52px; }
#leave { align-self: flex-end; max-width: 160px; background: none; color: #667; }
"""
KEYS = """
<script>
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = ["text", "textarea"].includes(event.target.type);
  if (typing) return;
  const choose = (group, place) => {
    const input = document.querySelectorAll(`#${group} input[type=radio]`)[place];
    if (input) { input.click(); event.preventDefault(); }
  };
  const press = (id) => {
    const button = document.querySelector(`#${id}`);
    if (button) { button.click(); event.preventDefault(); }
  };
  const digit = /^(Digit|Numpad)([1-7])$/.exec(event.code);
  if (digit && event.shiftKey) { if (digit[2] <= 5) choose("confidence", digit[2] - 1); }
  else if (digit) choose("entity", digit[2] - 1);
  else if ("aou".includes(event.key.toLowerCase())) choose("source", "aou".indexOf(event.key.toLowerCase()));
  else if (event.key === "Enter") press("save");
  else if (event.key === "ArrowLeft" && event.target.type !== "radio") press("back");
});
</script>
"""


def picture(folder: Path, image: str) -> str:
    """The image as it lies in the kit, inside the page: no file of the server has to be reachable for it."""
    content = base64.b64encode((folder / "images" / f"{image}.bmp").read_bytes()).decode()
    return f'<img alt="image to judge" src="data:image/bmp;base64,{content}">'


def progress(done: int, place: int, total: int) -> str:
    """Where the reader is, as a line and a bar."""
    return (
        f'<div>Image {place + 1} of {total}, {done} answered</div><div class="bar"><div class="done" '
        f'style="width:{100 * done / total:.1f}%"></div></div>'
    )


def application(folder: str | Path):
    """The form as a Gradio Blocks over the kit in `folder`. InputError where it is no kit."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    import gradio as gr

    folder = Path(folder)
    notes = kit.open_kit(folder)
    total = len(notes["images"])
    blank = {"reader": "", "place": 0}

    def show(reader: str, place: int, message: str = ""):
        """Everything that the page shows for the reader's image at `place`."""
        images = kit.order(notes, reader)
        known = store.answers(folder, reader).set_index("image")
        given = known.loc[images[place]] if images[place] in known.index else None
        finished = len(known) == total
        note = "**All images are answered. Thank you.** You may still go back and change an answer." if finished else ""
        return {
            welcome: gr.Column(visible=False),
            study: gr.Row(visible=True),
            where: {"reader": reader, "place": place},
            kept: {"reader": reader},
            bar: progress(len(known), place, total),
            shown: picture(folder, images[place]),
            entity: given["entity_answer"] if given is not None else None,
            source: given["source_answer"] if given is not None else None,
            confidence: int(given["confidence"]) if given is not None else None,
            said: message or note,
        }

    def first_open(reader: str) -> int:
        known = set(store.answers(folder, reader)["image"])
        images = kit.order(notes, reader)
        return next((place for place, image in enumerate(images) if image not in known), total - 1)

    def start(text):
        try:
            reader = store.reader_name(text)
        except InputError as error:
            return {asked: str(error)}
        return show(reader, first_open(reader))

    def resume(stored):
        """A reloaded page goes on with the reader that this browser last knew."""
        reader = (stored or {}).get("reader", "")
        return start(reader) if reader else {asked: ""}

    def save(at, chosen_entity, chosen_source, chosen_confidence):
        if not at["reader"]:
            return {
                welcome: gr.Column(visible=True),
                study: gr.Row(visible=False),
                asked: "please give your name again",
            }
        if chosen_entity is None or chosen_source is None or chosen_confidence is None:
            return {said: "Please answer all three questions first."}
        reader, place = at["reader"], at["place"]
        try:
            store.save(
                folder, reader, kit.order(notes, reader)[place], chosen_entity, chosen_source, int(chosen_confidence)
            )
        except InputError as error:
            return {said: f"**Not saved:** {html.escape(str(error))}"}
        return show(reader, place + 1 if place + 1 < total else first_open(reader))

    def back(at):
        return show(at["reader"], max(0, at["place"] - 1)) if at["reader"] else {said: ""}

    def leave():
        return {
            welcome: gr.Column(visible=True),
            study: gr.Row(visible=False),
            where: blank,
            kept: {"reader": ""},
            name: "",
            asked: "",
        }

    with gr.Blocks(title="Reader study", analytics_enabled=False) as page:
        where = gr.State(blank)
        kept = gr.BrowserState({"reader": ""}, storage_key=f"reader-study-{notes['kit']}", secret=notes["kit"])
        with gr.Column(elem_id="welcome") as welcome:
            gr.Markdown(
                "# Reader study\n"
                f"You will see {total} dermatoscopic images, one at a time. For each, name the entity, say whether it "
                "is an original photograph or made by AI, and how sure you are. Every answer is saved at "
                "once; you may stop at any time and come back with the same name."
            )
            name = gr.Textbox(label="Your name or initials", elem_id="name", max_lines=1, autofocus=True)
            begin = gr.Button("Start or continue", variant="primary", elem_id="start")
            asked = gr.Markdown(elem_id="asked")
        with gr.Row(visible=False, elem_id="study") as study:
            with gr.Column(scale=6, min_width=340):
                bar = gr.HTML(elem_id="progress")
                shown = gr.HTML(elem_id="picture")
            with gr.Column(scale=5, min_width=340):
                entity = gr.Radio(
                    [(f"{place}  {own.name}", own.code) for place, own in enumerate(ENTITIES, start=1)],
                    label="Which entity? (keys 1 to 7)",
                    elem_id="entity",
                )
                source = gr.Radio(
                    [(SOURCE_LABELS[answer], answer) for answer in ("AI", "original", "unsure")],
                    label="AI or original?",
                    elem_id="source",
                )
                confidence = gr.Radio(
                    [(str(value), value) for value in range(1, 6)],
                    label="How sure are you? 1 guessing, 5 certain (shift and 1 to 5)",
                    elem_id="confidence",
                )
                said = gr.Markdown(elem_id="said")
                with gr.Row():
                    previous = gr.Button("Back (←)", elem_id="back")
                    following = gr.Button("Save and next (Enter)", variant="primary", elem_id="save")
                change = gr.Button("Another reader", size="sm", elem_id="leave")
        everything = [welcome, study, where, kept, bar, shown, entity, source, confidence, said, name, asked]
        quiet = {"outputs": everything, "show_progress": "hidden", "api_visibility": "private"}
        page.load(resume, kept, **quiet)
        gr.on([begin.click, name.submit], start, name, **quiet)
        following.click(save, [where, entity, source, confidence], **quiet)
        previous.click(back, where, **quiet)
        change.click(leave, None, **quiet)
    assert set(SOURCE_LABELS) == set(SOURCE_ANSWERS)
    return page


def serve(folder: str | Path, port: int = 7860, host: str = "127.0.0.1") -> None:
    """Serve the kit until interrupted. InputError where the port is taken or the folder is no kit."""
    say = f"{folder} at {{address}} (stop with Ctrl-C; every answer is saved)"
    pages.serve(application(folder), port, host, say, STYLE, KEYS, (str(Path(folder).resolve().parent),))
