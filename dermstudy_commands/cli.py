"""The command line of the study: `dermstudy --help` names its commands."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator

from dermstudy import workspace
from dermstudy.files import InputError, answered, atomic_path
from dermstudy.processor import share_cores
from dermstudy_commands import classify as command
from dermstudy_commands import publish
from dermstudy_commands.judge import command as judge
from dermstudy_commands.readers import command as kit

INTERRUPTED = "dermstudy: interrupted; the same command goes on from the last finished notebook"
# Arguments of several commands
PROFILE = {"nargs": "?", "default": "demo", "help": "in profiles/, or a folder of your own (default: demo)"}
RESULTS = {"nargs": "?", "default": "results/demo", "help": "a results folder (default: results/demo)"}
DATA = {"metavar": "DIR", "help": "a HAM10000 download in place of the profile's cohort"}
JOBS = {
    "type": int,
    "default": 1,
    "metavar": "N",
    "help": "notebooks at once, where none needs the other (default: 1)",
}
WEIGHTS = {"metavar": "DIR", "default": "weights/glide-mini", "help": "base/ and upsampler/ (default: glide-mini)"}
PATIENCE = 10  # seconds that a dying kernel gets before an interrupted run ends without it


def main(arguments: list[str] | None = None) -> int:
    """Parse and act; as `answered` ends, and 1 for a failed notebook or results that differ (2 where a notebook refuses)."""
    options = _parser().parse_args(arguments)

    def act() -> int | None:
        _refuse(options)
        # Only now: numpy, far below, cannot be imported with a date that is none.
        from dermstudy_commands.runner.study import NotebookFailed

        share_cores()
        try:
            return options.act(options)
        except NotebookFailed as error:
            if isinstance(error, InputError):
                raise
            print(f"dermstudy: {error}", file=sys.stderr)
            return 1

    return answered(act, getattr(options, "interrupted", INTERRUPTED))


def _refuse(options: argparse.Namespace) -> None:
    """InputError for what no command can use: an empty text (an unset variable), no job at all, a date that is none."""
    for name, value in vars(options).items():
        if value == "":
            raise InputError(f"{name} is empty: give it a value, or leave it out")
    if getattr(options, "jobs", 1) < 1:
        raise InputError(f"--jobs {options.jobs}: give 1 or more")
    workspace.today()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dermstudy", description="Run the study of synthetic dermatoscopic images.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands)
    _add_lab(commands)
    _add_report(commands)
    _add_data(commands)
    kit.add(commands)
    _add_app(commands)
    _add_synthesize(commands)
    _add_convert(commands)
    command.add(commands)
    judge.add(commands)
    publish.add(commands)
    return parser


def _add_run(commands) -> None:
    run = commands.add_parser("run", help="run the notebooks of a profile in order")
    run.add_argument("profile", **PROFILE)
    run.add_argument("--data", **DATA)
    run.add_argument("--results", metavar="DIR", help="where to write (default: results/PROFILE)")
    run.add_argument("--only", metavar="NN", help="only this notebook, or several: 04,07")
    run.add_argument("--from", dest="start", metavar="NN", help="this notebook and those after it")
    run.add_argument("--to", metavar="NN", help="stop after this notebook")
    run.add_argument("--force", action="store_true", help="run notebooks that are up to date as well")
    run.add_argument(
        "--redraw",
        action="store_true",
        help="recompute 05 to 07 from the saved predictions of the results folder, without images",
    )
    run.add_argument("--jobs", **JOBS)
    run.set_defaults(act=_run)

    verify = commands.add_parser("verify", help="run the notebooks again elsewhere, and compare the results")
    verify.add_argument("results", **RESULTS)
    verify.add_argument("--jobs", **JOBS)
    verify.set_defaults(act=_verify)


def _add_lab(commands) -> None:
    lab = commands.add_parser("lab", help="open working copies of the notebooks in JupyterLab")
    lab.add_argument("profile", **PROFILE)
    lab.add_argument(
        "notebook", nargs="?", metavar="NN", help="the notebook to prepare and open (default: all of them)"
    )
    lab.add_argument("--data", **DATA)
    lab.add_argument("--results", metavar="DIR", help="the profile's run (default: results/PROFILE); copies: DIR-lab")
    lab.add_argument("--as-is", action="store_true", help="use that run's results even if they are not up to date")
    lab.add_argument("--no-browser", action="store_true", help="print the address only")
    lab.add_argument("--port", type=int, help="the first port to try (default: Jupyter's 8888)")
    lab.set_defaults(act=_lab)


def _add_report(commands) -> None:
    report = commands.add_parser("report", help="write the executed notebooks as linked web pages")
    report.add_argument("results", **RESULTS)
    report.add_argument("out", nargs="?", default="build/report", help="the folder to write (default: build/report)")
    report.set_defaults(act=_report)

    found = commands.add_parser("findings", help="print what the notebooks of a run found (Markdown)")
    found.add_argument("results", **RESULTS)
    found.add_argument("--headlines", action="store_true", help="only the first sentence of each finding")
    found.add_argument(
        "--write", action="store_true", help="compute them again from the tables, without running a notebook"
    )
    found.set_defaults(act=_findings)


def _add_data(commands) -> None:
    data = commands.add_parser("data", help="check a HAM10000 folder, or write the embedded phantom")
    actions = data.add_subparsers(required=True, metavar="ACTION")
    check = actions.add_parser("check", help="read a folder and decode every image")
    check.add_argument("folder")
    check.set_defaults(act=_check)
    phantom = actions.add_parser("phantom", help="write the embedded phantom in HAM10000's layout")
    phantom.add_argument("folder")
    phantom.add_argument("--profile", **PROFILE | {"nargs": None})
    phantom.set_defaults(act=_phantom)


def _add_app(commands) -> None:
    app = commands.add_parser("app", help="serve a page that generates images from text, fills regions and blends")
    app.add_argument("--weights", **WEIGHTS)
    kit.add_address(app)
    app.set_defaults(act=_app)


def _add_synthesize(commands) -> None:
    made = commands.add_parser(
        "synthesize", help="write a folder of synthetic images to share, with captions and Croissant"
    )
    made.add_argument("folder", metavar="OUT")
    made.add_argument("--per-entity", type=int, required=True, metavar="N", help="images of each entity")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--weights", **WEIGHTS)
    interrupted = "dermstudy: interrupted; the same command goes on from the last finished images"
    made.set_defaults(act=_synthesize, interrupted=interrupted)


def _add_convert(commands) -> None:
    convert = commands.add_parser("convert", help="convert OpenAI's GLIDE checkpoint to a diffusers folder, or back")
    convert.add_argument("source", help="CHECKPOINT.pt (or a diffusers folder with --to-openai)")
    convert.add_argument("target", help="the folder (or the checkpoint) to write")
    convert.add_argument(
        "--tokenizer", metavar="DIR", help="folder with GPT-2's vocab.json and merges.txt, or OpenAI's files"
    )
    convert.add_argument(
        "--head-width", type=int, default=64, help="channels of a head of the U-Net (default: 64, as OpenAI's)"
    )
    convert.add_argument(
        "--text-heads",
        type=int,
        metavar="N",
        help="heads of the text transformer, OpenAI's xf_heads (default: 8 for the released sizes; otherwise required)",
    )
    convert.add_argument("--to-openai", action="store_true", help="write an OpenAI checkpoint from a diffusers folder")
    convert.set_defaults(act=_convert)


def _run(options: argparse.Namespace) -> None:
    from dermstudy_commands.runner import study

    only = [number.strip() for number in options.only.split(",")] if options.only is not None else None
    with _interruptible():
        study.run(
            options.profile, options.data, options.results, only, options.start, options.force, options.to, options.jobs,
            options.redraw,
        )  # fmt: skip


def _verify(options: argparse.Namespace) -> int:
    from dermstudy_commands.runner import verify

    with _interruptible():
        compared, older = verify.rerun(options.results, options.jobs)
    code = f"; made by older code: {', '.join(stem[:2] for stem in older)}" if older else ""
    print(compared.line() + code)
    return 0 if compared.equal else 1


def _lab(options: argparse.Namespace) -> None:
    from dermstudy_commands.runner import lab

    profile, number = options.profile, options.notebook
    if number is None and profile.isdigit():
        profile, number = "demo", profile
    with _interruptible():
        folder, notebook = lab.prepare(profile, number, options.data, options.results, options.as_is)
    lab.serve(folder, notebook, options.port, not options.no_browser)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """End a walk on the first interrupt, within PATIENCE seconds whatever its kernel does."""

    def interrupt(*_) -> None:
        def leave() -> None:
            print(INTERRUPTED, file=sys.stderr, flush=True)
            os._exit(130)

        # The notebook client can swallow an interrupt or wait for its kernel for ever; whatever it has not finished
        # is written under temporary names, so leaving loses nothing.
        watchdog = threading.Timer(PATIENCE, leave)
        watchdog.daemon = True
        watchdog.start()
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # it tells of the kernel that dies now, at length
        raise KeyboardInterrupt

    main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, interrupt) if main_thread else None
    try:
        yield
    finally:
        if main_thread:
            signal.signal(signal.SIGINT, before)


def _report(options: argparse.Namespace) -> None:
    from dermstudy_commands.runner import report

    space = workspace.Workspace(workspace.from_root(options.results))
    print(f"{workspace.shown(report.write(space, options.out))}/index.html")


def _findings(options: argparse.Namespace) -> None:
    from dermstudy_commands.runner import findings

    space = workspace.Workspace(workspace.from_root(options.results))
    if options.write:
        findings.write(space)
    print(findings.markdown(space, options.headlines))


def _check(options: argparse.Namespace) -> None:
    from dermstudy.data import dataset

    cohort = dataset.load_folder(options.folder)
    counts = dataset.verify_images(cohort)
    print(f"{counts['images']} images of {cohort.frame['lesion_id'].nunique()} lesions, all readable")
    print(cohort.frame["dx"].value_counts().to_string())
    print(f"data hash {cohort.data_hash}")


def _free(path: str) -> str:
    """`path`, where nothing lies yet: what is written there replaces a folder whole. InputError elsewhere."""
    if os.path.lexists(path):
        raise InputError(f"{path} is there already: name a new one, or remove it first")
    return path


def _phantom(options: argparse.Namespace) -> None:
    from dermstudy_commands.phantom import cohort as phantom
    from dermstudy_commands.runner.profiles import load_profile

    given = phantom.arguments(load_profile(options.profile).phantom)
    folder = phantom.write_cohort(_free(options.folder), **given)
    print(f"{given['images']} phantom images in {folder}")


def _app(options: argparse.Namespace) -> None:
    from dermstudy_commands.web import app

    app.serve(workspace.from_root(options.weights), options.port, options.host, options.root_path or "")


def _synthesize(options: argparse.Namespace) -> None:
    from dermstudy_commands import synthetic_set

    weights = workspace.from_root(options.weights)
    print(f"whole: {synthetic_set.make(weights, options.folder, options.per_entity, options.seed)}")


def _convert(options: argparse.Namespace) -> None:
    import torch

    from dermstudy.diffusion import convert, glide, weights

    source, target = options.source, _free(options.target)
    if options.to_openai:
        pipeline = glide.load(source, getattr(glide, weights.stage_of(source)))
        if pipeline.pixels is not None:
            raise InputError(f"{source} diffuses folded pixels: OpenAI's GLIDE has no checkpoint of that form")
        state = convert.to_openai(pipeline)
    elif options.tokenizer is None:
        raise InputError("give --tokenizer DIR: a folder with GPT-2's vocab.json and merges.txt, or OpenAI's files")
    else:
        heads = options.head_width, options.text_heads
        tokenizer = convert.read_tokenizer(options.tokenizer)
        pipeline = convert.to_diffusers(convert.read_checkpoint(source), tokenizer, *heads)
    with atomic_path(target) as temporary:
        torch.save(state, temporary) if options.to_openai else pipeline.save_pretrained(temporary)
    print(f"wrote {target}")


if __name__ == "__main__":
    sys.exit(main())
