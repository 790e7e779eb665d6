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
from pathlib import Path

from dermstudy.classification import command
from dermstudy.files import InputError
from dermstudy.processor import share_cores
from dermstudy.readers import command as kit

INTERRUPTED = "dermstudy: interrupted; the same command goes on from the last finished notebook"
PATIENCE = 10  # seconds that a dying kernel gets before an interrupted run ends without it


def main(arguments: list[str] | None = None) -> int:
    """Parse and act; 0 on success, 1 for a failed notebook, results that differ or a reader that left (`| head`), 2 for bad
    input (what a notebook refuses among it), 130 when interrupted."""
    from dermstudy.runner.study import NotebookFailed

    parser = _parser()
    options = parser.parse_args(arguments)
    share_cores()
    try:
        status = options.act(options) or 0
        sys.stdout.flush()  # a reader that left is noticed here, and not when Python ends
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except InputError as error:
        print(f"dermstudy: {error}", file=sys.stderr)
        return 2
    except NotebookFailed as error:
        print(f"dermstudy: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(getattr(options, "interrupted", INTERRUPTED), file=sys.stderr)
        return 130


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
    return parser


def _add_run(commands) -> None:
    run = commands.add_parser("run", help="execute the notebooks of a profile in order")
    run.add_argument("profile", nargs="?", default="demo", help="a file in profiles/ (default: demo)")
    run.add_argument("--data", metavar="DIR", help="a HAM10000 download in place of the profile's cohort")
    run.add_argument("--results", metavar="DIR", help="where to write (default: results/PROFILE)")
    run.add_argument("--only", metavar="NN", help="this notebook alone, or several: 04,07")
    run.add_argument("--from", dest="start", metavar="NN", help="this notebook and those after it")
    run.add_argument("--to", metavar="NN", help="nothing after this notebook")
    run.add_argument("--verify", action="store_true", help="compare the tables and figures with the committed ones")
    run.add_argument("--force", action="store_true", help="run notebooks that are up to date as well")
    run.add_argument(
        "--redraw",
        action="store_true",
        help="06 and 07 from the finished predictions of the results folder, without images",
    )
    _add_jobs(run)
    run.set_defaults(act=_run)

    verify = commands.add_parser("verify", help="run committed results once more, elsewhere, and compare them")
    verify.add_argument("results", nargs="?", default="results/demo", help="a results folder (default: results/demo)")
    verify.add_argument(
        "--at-commit", action="store_true", help="with the code that made them, as the manifest names it"
    )
    _add_jobs(verify)
    verify.set_defaults(act=_verify)


def _add_jobs(command) -> None:
    command.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="notebooks at once, where none needs the other (default: 1)"
    )


def _add_lab(commands) -> None:
    lab = commands.add_parser("lab", help="JupyterLab on working copies of the notebooks, with all that they read")
    lab.add_argument("profile", nargs="?", default="demo", help="a file in profiles/ (default: demo)")
    lab.add_argument(
        "notebook", nargs="?", metavar="NN", help="the notebook to prepare and open (default: all of them)"
    )
    lab.add_argument("--data", metavar="DIR", help="a HAM10000 download in place of the profile's cohort")
    lab.add_argument("--results", metavar="DIR", help="the profile's run (default: results/PROFILE); copies: DIR-lab")
    lab.add_argument("--as-is", action="store_true", help="take that run's results, up to date or not")
    lab.add_argument("--no-browser", action="store_true", help="print the address only")
    lab.add_argument("--port", type=int, help="the first port to try (default: Jupyter's 8888)")
    lab.set_defaults(act=_lab)


def _add_report(commands) -> None:
    report = commands.add_parser("report", help="the executed notebooks as linked web pages")
    report.add_argument("results", nargs="?", default="results/demo", help="a results folder (default: results/demo)")
    report.add_argument("out", nargs="?", default="build/report", help="the folder to write (default: build/report)")
    report.set_defaults(act=_report)

    found = commands.add_parser("findings", help="the paper, its rerun and the audit in one table (Markdown)")
    found.add_argument("results", nargs="?", default="results/demo", help="a results folder (default: results/demo)")
    found.add_argument("--headlines", action="store_true", help="the few rows of a first page")
    found.set_defaults(act=_findings)

    words = commands.add_parser("reword", help="mended words into executed notebooks whose code is unchanged")
    words.add_argument("results", nargs="?", default="results/demo", help="a results folder (default: results/demo)")
    words.set_defaults(act=_reword)


def _add_data(commands) -> None:
    data = commands.add_parser("data", help="check a HAM10000 folder, or write the embedded phantom")
    actions = data.add_subparsers(required=True, metavar="ACTION")
    check = actions.add_parser("check", help="read a folder and decode every image")
    check.add_argument("folder")
    check.set_defaults(act=_check)
    phantom = actions.add_parser("phantom", help="write the embedded phantom in HAM10000's layout")
    phantom.add_argument("folder")
    phantom.add_argument("--images", type=int, default=1000)
    phantom.add_argument("--side", type=int, default=256)
    phantom.add_argument("--seed", type=int, default=0)
    phantom.add_argument("--shares", default="ham10000", help="ham10000 or balanced")
    phantom.set_defaults(act=_phantom)


def _add_app(commands) -> None:
    app = commands.add_parser("app", help="a page that paints: from text, into a marked place, two entities blended")
    app.add_argument(
        "--weights", metavar="DIR", default="weights/glide-mini", help="base/ and upsampler/ (default: glide-mini)"
    )
    app.add_argument("--port", type=int, default=7860)
    app.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in (default: this one only)")
    app.set_defaults(act=_app)


def _add_synthesize(commands) -> None:
    made = commands.add_parser(
        "synthesize", help="a folder of synthetic images to pass on, with captions and Croissant"
    )
    made.add_argument("folder", metavar="OUT")
    made.add_argument("--per-entity", type=int, required=True, metavar="N", help="images of each entity")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--weights", metavar="DIR", default="weights/glide-mini", help="default: glide-mini")
    interrupted = "dermstudy: interrupted; the same command goes on from the last finished images"
    made.set_defaults(act=_synthesize, interrupted=interrupted)


def _add_convert(commands) -> None:
    convert = commands.add_parser("convert", help="OpenAI's GLIDE checkpoint to a diffusers folder, or back")
    convert.add_argument("source", help="CHECKPOINT.pt (or a diffusers folder with --to-openai)")
    convert.add_argument("target", help="the folder (or the checkpoint) to write")
    convert.add_argument(
        "--tokenizer", metavar="DIR", help="folder with GPT-2's vocab.json and merges.txt, or upstream's files"
    )
    convert.add_argument(
        "--head-width", type=int, default=64, help="channels of a head of the U-Net (default: 64, upstream's)"
    )
    convert.add_argument(
        "--text-heads",
        type=int,
        metavar="N",
        help="heads of the text transformer, upstream's xf_heads (default: 8 for OpenAI's released sizes; else needed)",
    )
    convert.add_argument("--to-openai", action="store_true", help="write an OpenAI checkpoint from a diffusers folder")
    convert.set_defaults(act=_convert)


def _run(options: argparse.Namespace) -> int:
    from dermstudy.runner import study

    def walk() -> Path:
        only = options.only.split(",") if options.only else None
        return study.run(
            options.profile, options.data, options.results, only, options.start, options.force, options.to, options.jobs,
            options.redraw,
        )  # fmt: skip

    with _interruptible():
        if not options.verify:
            walk()
            return 0
        from dermstudy.runner import verify

        target = options.results or study.default_results(options.profile, options.data)
        with verify.committed(options.profile, target, own_data=bool(options.data)) as expected:
            compared = verify.compare(expected, walk())
    print(compared.line())
    return 0 if compared.equal else 1


def _verify(options: argparse.Namespace) -> int:
    from dermstudy.runner import verify

    with _interruptible():
        compared, older = verify.rerun(options.results, options.at_commit, options.jobs)
    code = f"; made by older code: {', '.join(stem[:2] for stem in older)} (--at-commit runs theirs)" if older else ""
    print(compared.line() + code)
    return 0 if compared.equal else 1


def _lab(options: argparse.Namespace) -> None:
    from dermstudy.runner import lab

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
    from dermstudy import workspace
    from dermstudy.runner import report

    space = workspace.Workspace(workspace.from_root(options.results))
    print(f"{workspace.shown(report.write(space, options.out))}/index.html")


def _findings(options: argparse.Namespace) -> None:
    from dermstudy import workspace
    from dermstudy.runner import findings

    print(findings.markdown(workspace.Workspace(workspace.from_root(options.results)), options.headlines))


def _reword(options: argparse.Namespace) -> None:
    from dermstudy import workspace
    from dermstudy.runner import study, words

    space = workspace.Workspace(workspace.from_root(options.results))
    with study.locked(space):
        changed = words.refresh(space)
    print(f"new words in {', '.join(changed)}" if changed else "every word is up to date")


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
    from dermstudy.phantom import cohort as phantom

    folder = phantom.write_cohort(_free(options.folder), options.images, options.seed, options.side, options.shares)
    print(f"{options.images} phantom images in {folder}")


def _app(options: argparse.Namespace) -> None:
    from dermstudy import workspace
    from dermstudy.web import app

    app.serve(workspace.from_root(options.weights), options.port, options.host)


def _synthesize(options: argparse.Namespace) -> None:
    from dermstudy import workspace
    from dermstudy.diffusion import synthetic_set

    weights = workspace.from_root(options.weights)
    print(f"whole: {synthetic_set.make(weights, options.folder, options.per_entity, options.seed)}")


def _convert(options: argparse.Namespace) -> None:
    from dermstudy.diffusion import convert

    if options.to_openai:
        print(f"wrote {convert.convert_back(options.source, _free(options.target))}")
        return
    if options.tokenizer is None:
        raise InputError("give --tokenizer DIR: a folder with GPT-2's vocab.json and merges.txt, or upstream's files")
    heads = options.head_width, options.text_heads
    print(f"wrote {convert.convert(options.source, _free(options.target), options.tokenizer, *heads)}")


if __name__ == "__main__":
    sys.exit(main())
