"""The browser form of a reader study: one image at a time, by keyboard, mouse or touch (Gradio).

The page holds pixels and names without meaning; the key is never opened here. A reader is known by a private link,
made on the first visit or by the organiser; a name alone opens nobody's answers.
"""

from __future__ import annotations

import base64
import html
from dataclasses import dataclass
from pathlib import Path

from dermstudy.entities import ENTITIES
from dermstudy.files import InputError
from dermstudy.readers.workbook import SOURCE_ANSWERS
from dermstudy_commands import serving
from dermstudy_commands.readers import served, store

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
#own { color: #667; font-size: small; }
#own a { margin: 0; padding: 0; }
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
ASKED_FOR = """(kept, _) => [kept, new URLSearchParams(location.search).get("reader") || ""]"""
# The page's address becomes the reader's link, so that a reload or a bookmark comes back to the same answers.
ADDRESS = """(kept) => {
  const link = kept && kept.token ? "?reader=" + encodeURIComponent(kept.token) : location.pathname;
  history.replaceState(null, "", link);
}"""


# What lies in the page


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


# What the buttons do


@dataclass(frozen=True)
class Form:
    """The kit in `folder` as the page's buttons act on it: every method says what changes, by component name.

    `at` is where a page stands: the reader's token and the place of the image in the reader's order.
    """

    folder: Path
    notes: dict

    @property
    def total(self) -> int:
        """How many images there are."""
        return len(self.notes["images"])

    def start(self, name: str | None) -> dict:
        """A first visit: a reader and a link of its own, whoever else has that name."""
        try:
            token, _ = store.add_reader(self.folder, name)
        except InputError as error:
            return {"asked": html.escape(str(error))}
        return self.show(token, 0)

    def resume(self, kept: dict | None, asked_for: str | None) -> dict:
        """A page that is opened: by the link's token, or else by the one that this browser last knew."""
        token = asked_for or (kept or {}).get("token", "")
        if not token:
            return {"asked": ""}
        try:
            reader = store.reader_of(self.folder, token)
        except InputError as error:
            return {"asked": html.escape(str(error))}
        return self.show(token, self.first_open(reader))

    def save(self, at: dict, entity: str | None, source: str | None, confidence: int | None) -> dict:
        """Keep the answer to the image shown, and go on to the next one."""
        if not at["token"]:  # the server was started anew beneath an open page
            return {"said": "Please reload this page: your answers are kept, this one is not yet."}
        if entity is None or source is None or confidence is None:
            return {"said": "Please answer all three questions first."}
        try:
            reader = store.reader_of(self.folder, at["token"])
            image = served.order(self.notes, reader)[at["place"]]
            store.save(self.folder, reader, image, entity, source, int(confidence))
        except InputError as error:
            return {"said": f"**Not saved:** {html.escape(str(error))}"}
        following = at["place"] + 1
        return self.show(at["token"], following if following < self.total else self.first_open(reader))

    def back(self, at: dict) -> dict:
        """The image before, with its answer."""
        return self.show(at["token"], max(0, at["place"] - 1)) if at["token"] else {"said": ""}

    def leave(self) -> dict:
        """The first page, for another reader."""
        return _visible(welcome=True) | {"where": blank(), "kept": {"token": ""}, "name": "", "asked": ""}

    def first_open(self, reader: str) -> int:
        """The place of the first image without an answer, or of the last one."""
        known = set(store.answers(self.folder, reader)["image"])
        images = served.order(self.notes, reader)
        return next((place for place, image in enumerate(images) if image not in known), self.total - 1)

    def show(self, token: str, place: int) -> dict:
        """Everything that the page shows for the image at `place`."""
        reader = store.reader_of(self.folder, token)
        image = served.order(self.notes, reader)[place]
        known = store.answers(self.folder, reader).set_index("image")
        given = {"entity": None, "source": None, "confidence": None}
        if image in known.index:
            row = known.loc[image]
            given = {
                "entity": row["entity_answer"],
                "source": row["source_answer"],
                "confidence": int(row["confidence"]),
            }
        finished = "**All images are answered. Thank you.** You may still go back and change an answer."
        return (
            _visible(welcome=False)
            | given
            | {
                "where": {"token": token, "place": place},
                "kept": {"token": token},
                "bar": progress(len(known), place, self.total),
                "shown": picture(self.folder, image),
                "own": private_link(reader, token),
                "said": finished if len(known) == self.total else "",
            }
        )


def blank() -> dict:
    """Where a page stands before it knows its reader."""
    return {"token": "", "place": 0}


def _visible(welcome: bool) -> dict:
    """The first page, or the study in its place."""
    import gradio as gr

    return {"welcome": gr.update(visible=welcome), "study": gr.update(visible=not welcome)}


# The pages


def private_link(reader: str, token: str) -> str:
    """Who answers here, and the link that comes back to these answers."""
    return (
        f'You answer as <b>{html.escape(reader)}</b>. <a href="{served.link(token)}">Your private link</a>, which is also '
        "this page's address, opens your answers again: keep it, and give it to nobody."
    )


def _welcome_page(total: int) -> dict:
    """The first page's components by name."""
    import gradio as gr

    with gr.Column(elem_id="welcome") as welcome:
        gr.Markdown(
            "# Reader study\n"
            f"You will see {total} dermatoscopic images, one at a time. For each, name the entity, say whether it "
            "is an original photograph or made by AI, and how sure you are. Every answer is saved at "
            "once; you may stop at any time and come back with the private link that you are given next. "
            "If you have a link already, open it instead."
        )
        name = gr.Textbox(label="Your name or initials", elem_id="name", max_lines=1, autofocus=True)
        begin = gr.Button("Start", variant="primary", elem_id="start")
        asked = gr.Markdown(elem_id="asked")
        asked_for = gr.Textbox(visible=False)  # the token in the page's address
    return {"welcome": welcome, "name": name, "begin": begin, "asked": asked, "asked_for": asked_for}


def _study_page() -> dict:
    """The components of the page that shows an image and asks about it, by name."""
    import gradio as gr

    with gr.Row(visible=False, elem_id="study") as study:
        with gr.Column(scale=6, min_width=340):
            bar = gr.HTML(elem_id="progress")
            shown = gr.HTML(elem_id="picture")
        with gr.Column(scale=5, min_width=340):
            parts = _questions()
            said = gr.Markdown(elem_id="said")
            with gr.Row():
                previous = gr.Button("Back (←)", elem_id="back")
                following = gr.Button("Save and next (Enter)", variant="primary", elem_id="save")
            own = gr.HTML(elem_id="own")
            change = gr.Button("Another reader", size="sm", elem_id="leave")
    parts |= {"study": study, "bar": bar, "shown": shown, "said": said, "own": own}
    return parts | {"previous": previous, "following": following, "change": change}


def _questions() -> dict:
    """The three questions by name."""
    import gradio as gr

    assert set(SOURCE_LABELS) == set(SOURCE_ANSWERS)
    entity = gr.Radio(
        [(f"{place}  {own.name}", own.code) for place, own in enumerate(ENTITIES, start=1)],
        label="Which entity? (keys 1 to 7)",
        elem_id="entity",
    )
    source = gr.Radio(
        [(label, answer) for answer, label in SOURCE_LABELS.items()], label="AI or original?", elem_id="source"
    )
    confidence = gr.Radio(
        [(str(value), value) for value in range(1, 6)],
        label="How sure are you? 1 guessing, 5 certain (shift and 1 to 5)",
        elem_id="confidence",
    )
    return {"entity": entity, "source": source, "confidence": confidence}


def application(folder: str | Path):
    """The form as a Gradio Blocks over the kit in `folder`. InputError where it is no kit."""
    gr = serving.gradio()
    folder = Path(folder)
    form = Form(folder, served.open_kit(folder))
    with gr.Blocks(title="Reader study", analytics_enabled=False) as page:
        where = gr.State(blank())
        kept = gr.BrowserState({"token": ""}, storage_key=f"study-{form.notes['kit']}", secret=form.notes["kit"])
        components = {"where": where, "kept": kept} | _welcome_page(form.total) | _study_page()
        _connect(page, form, components)
    return page


def _connect(page, form: Form, components: dict) -> None:
    """Tie the page's events to the form's methods."""
    import gradio as gr

    def changing(act):
        return lambda *given: {components[name]: value for name, value in act(*given).items()}

    buttons = {"begin", "previous", "following", "change"}
    everything = [component for name, component in components.items() if name not in buttons]
    quiet = {"outputs": everything, "show_progress": "hidden", "api_visibility": "private"}
    opened = page.load(changing(form.resume), [components["kept"], components["asked_for"]], js=ASKED_FOR, **quiet)
    started = gr.on(
        [components["begin"].click, components["name"].submit], changing(form.start), components["name"], **quiet
    )
    questions = [components[name] for name in ("where", "entity", "source", "confidence")]
    components["following"].click(changing(form.save), questions, **quiet)
    components["previous"].click(changing(form.back), components["where"], **quiet)
    left = components["change"].click(changing(form.leave), None, **quiet)
    for event in (opened, started, left):
        event.then(None, components["kept"], None, js=ADDRESS)


def serve(folder: str | Path, port: int = 7860, host: str = "127.0.0.1", root_path: str = "") -> None:
    """Serve the kit until interrupted. InputError where the port is taken or the folder is no kit."""
    say = f"{folder} at {{address}} (stop with Ctrl-C; every answer is saved)"
    blocked = (str(Path(folder).resolve().parent),)
    serving.serve(application(folder), port, host, say, STYLE, KEYS, blocked, root_path=root_path)
