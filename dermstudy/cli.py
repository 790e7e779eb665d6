"""The command line: `dermstudy run`, `lab`, `report`, `data`, `kit`, `app`, `convert`."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from pathlib import Path

from dermstudy.files import InputError

INTERRUPTED = "dermstudy: interrupted; the same command goes on from the last finished notebook"
PATIENCE = 10  # seconds that a dying kernel gets before an interrupted run ends without it


def main(arguments: list[str] | None = None) -> int:
    """Parse and act; 0 on success, 1 for a failed notebook, 2 for bad input, 130 when interrupted."""
    from dermstudy.study import NotebookFailed

    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        options.act(options)
    except InputError as error:
        print(f"dermstudy: {error}", file=sys.stderr)
        return 2
    except NotebookFailed as error:
        print(f"dermstudy: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dermstudy", description="Run the study of synthetic dermatoscopic images.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="execute the notebooks of a profile in order")
    run.add_argument("profile", nargs="?", default="demo", help="a file in profiles/ (default: demo)")
    run.add_argument("--data", metavar="DIR", help="a HAM10000 download in place of the profile's cohort")
    run.add_argument("--results", metavar="DIR", help="where to write (default: results/PROFILE)")
    run.add_argument("--only", metavar="NN", help="this notebook alone")
    run.add_argument("--from", dest="start", metavar="NN", help="this notebook and those after it")
    run.add_argument("--force", action="store_true", help="run notebooks that are up to date as well")
    run.set_defaults(act=_run)

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

    report = commands.add_parser("report", help="the executed notebooks as linked web pages")
    report.add_argument("results", nargs="?", default="results/demo", help="a results folder (default: results/demo)")
    report.add_argument("out", nargs="?", default="build/report", help="the folder to write (default: build/report)")
    report.set_defaults(act=_report)

    found = commands.add_parser("findings", help="the paper, its rerun and the audit in one table (Markdown)")
    found.add_argument("results", nargs="?", default="results/demo", help="a results folder (default: results/demo)")
    found.set_defaults(act=_findings)

    prose = commands.add_parser("prose", help="mended words into executed notebooks whose code is unchanged")
    prose.add_argument("results", nargs="?", default="results/demo", help="a results folder (default: results/demo)")
    prose.set_defaults(act=_prose)

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

    kit = commands.add_parser("kit", help="a blinded reader study: build the kit, serve it, export the answers")
    actions = kit.add_subparsers(required=True, metavar="ACTION")
    build = actions.add_parser("build", help="draw synthetic and held-out original images into a kit")
    build.add_argument("folder", metavar="OUT", help="the kit's folder; its key is written beside it")
    build.add_argument("--synthetic", required=True, metavar="DIR", help="results/PROFILE/artifacts/synthetic")
    build.add_argument(
        "--data", required=True, metavar="DIR", help="results/PROFILE/artifacts/cohort, or a HAM10000 download"
    )
    build.add_argument("--split", metavar="FILE", help="tables/split.csv of the run, where --data is a download")
    build.add_argument("--per-entity", type=int, default=10, help="images of each source an entity (default: 10)")
    build.add_argument("--seed", type=int, help="repeatable names and choice (default: secret)")
    build.set_defaults(act=_kit_build)
    serve = actions.add_parser("serve", help="the browser form")
    serve.add_argument("folder", metavar="KIT")
    serve.add_argument("--port", type=int, default=7860)
    serve.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in (default: this one only)")
    serve.set_defaults(act=_kit_serve)
    export = actions.add_parser("export", help="all answers as a workbook")
    export.add_argument("folder", metavar="KIT")
    export.add_argument("workbook", metavar="OUT.xlsx")
    export.add_argument("--key", metavar="FILE", help="the kit's key (default: KIT_key.csv beside the kit)")
    export.add_argument("--partial", action="store_true", help="also readers who have not finished")
    export.set_defaults(act=_kit_export)

    app = commands.add_parser("app", help="a page that paints: from text, into a marked place, two entities blended")
    app.add_argument(
        "--weights", metavar="DIR", default="weights/glide-mini", help="base/ and upsampler/ (default: glide-mini)"
    )
    app.add_argument("--port", type=int, default=7860)
    app.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in (default: this one only)")
    app.set_defaults(act=_app)

    convert = commands.add_parser("convert", help="OpenAI's GLIDE checkpoint to a diffusers folder, or back")
    convert.add_argument("source", help="CHECKPOINT.pt (or a diffusers folder with --to-openai)")
    convert.add_argument("target", help="the folder (or the checkpoint) to write")
    convert.add_argument(
        "--tokenizer", metavar="DIR", help="folder with GPT-2's vocab.json and merges.txt, or upstream's files"
    )
    convert.add_argument(
        "--head-width", type=int, default=64, help="channels of an attention head (default: 64, upstream's)"
    )
    convert.add_argument("--to-openai", action="store_true", help="write an OpenAI checkpoint from a diffusers folder")
    convert.set_defaults(act=_convert)
    return parser


def _run(options: argparse.Namespace) -> None:
    from dermstudy import study

    with _interruptible():
        study.run(options.profile, options.data, options.results, options.only, options.start, options.force)


def _lab(options: argparse.Namespace) -> None:
    from dermstudy import lab

    profile, number = options.profile, options.notebook
    if number is None and profile.isdigit():
        profile, number = "demo", profile
    with _interruptible():
        folder, notebook = lab.prepare(profile, number, options.data, options.results, options.as_is)
    lab.serve(folder, notebook, options.port, not options.no_browser)


@contextlib.contextmanager
def _interruptible():
    """Ctrl-C ends running notebooks within seconds."""

    def interrupt(*_) -> None:
        def leave() -> None:
            print(INTERRUPTED, file=sys.stderr, flush=True)
            os._exit(130)

        # The notebook client can swallow an interrupt or wait for its kernel for ever; whatever it has not finished
        # is written under temporary names, so leaving loses nothing.
        watchdog = threading.Timer(PATIENCE, leave)
        watchdog.daemon = True
        watchdog.start()
        raise KeyboardInterrupt

    main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, interrupt) if main_thread else None
    try:
        yield
    finally:
        if main_thread:
            signal.signal(signal.SIGINT, before)


def _report(options: argparse.Namespace) -> None:
    from dermstudy import report, workspace

    space = workspace.Workspace(workspace.from_root(options.results))
    print(f"{workspace.shown(report.write(space, options.out))}/index.html")


def _findings(options: argparse.Namespace) -> None:
    from dermstudy import findings, workspace

    print(findings.markdown(workspace.Workspace(workspace.from_root(options.results))))


def _prose(options: argparse.Namespace) -> None:
    from dermstudy import prose, workspace

    changed = prose.refresh(workspace.Workspace(workspace.from_root(options.results)))
    print(f"new words in {', '.join(changed)}" if changed else "every word is up to date")


def _check(options: argparse.Namespace) -> None:
    from dermstudy import dataset

    cohort = dataset.load_folder(options.folder)
    counts = dataset.verify_images(cohort)
    print(f"{counts['images']} images of {cohort.frame['lesion_id'].nunique()} lesions, all readable")
    print(cohort.frame["dx"].value_counts().to_string())
    print(f"data hash {cohort.data_hash}")


def _phantom(options: argparse.Namespace) -> None:
    from dermstudy import phantom

    folder = phantom.write_cohort(options.folder, options.images, options.seed, options.side, options.shares)
    print(f"{options.images} phantom images in {folder}")


def _kit_build(options: argparse.Namespace) -> None:
    from dermstudy import dataset, splits
    from dermstudy.readers import kit

    saved = Path(options.data, "cohort.csv").is_file()
    cohort = dataset.open_cohort(options.data) if saved else dataset.load_folder(options.data)
    if not saved or options.split:
        if not options.split:
            raise InputError(f"{options.data} does not say which lesions are held out: give --split tables/split.csv")
        cohort.frame["split"] = splits.apply_split(cohort.frame, options.split)
    synthetic = dataset.open_synthetic(options.synthetic)
    folder, key = kit.build(synthetic, cohort.select(split="test"), options.folder, options.per_entity, options.seed)
    print(f"{14 * options.per_entity} images in {folder}; the key, which no reader may see, is {key}")


def _kit_serve(options: argparse.Namespace) -> None:
    from dermstudy.readers import form

    form.serve(options.folder, options.port, options.host)


def _kit_export(options: argparse.Namespace) -> None:
    from dermstudy.readers import kit, workbook

    key = options.key or f"{options.folder.rstrip('/')}_key.csv"
    answers = kit.export(options.folder, key, options.partial)
    path = workbook.write_workbook(answers, options.workbook)
    print(f"{len(answers)} answers of {answers['reader'].nunique()} reader(s) in {path}")


def _app(options: argparse.Namespace) -> None:
    from dermstudy import app, workspace

    app.serve(workspace.from_root(options.weights), options.port, options.host)


def _convert(options: argparse.Namespace) -> None:
    from dermstudy import convert

    if options.to_openai:
        print(f"wrote {convert.convert_back(options.source, options.target)}")
        return
    if options.tokenizer is None:
        raise InputError("give --tokenizer DIR: a folder with GPT-2's vocab.json and merges.txt, or upstream's files")
    print(f"wrote {convert.convert(options.source, options.target, options.tokenizer, options.head_width)}")


if __name__ == "__main__":
    sys.exit(main())
