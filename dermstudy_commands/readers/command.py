"""The command `dermstudy kit`: build a blinded reader study, serve it, list its readers, export their answers."""

from __future__ import annotations

import argparse
from pathlib import Path

from dermstudy.files import InputError


def add(commands) -> None:
    """Add `kit` and its actions to the command line's `commands`, argparse's subparsers."""
    kit = commands.add_parser("kit", help="hold a blinded reader study: build a kit, serve it, export the answers")
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
    build.add_argument(
        "--reader", action="append", default=[], metavar="NAME", help="a private link for this reader (may be repeated)"
    )
    build.set_defaults(act=_build)
    serve = actions.add_parser("serve", help="the browser form")
    serve.add_argument("folder", metavar="KIT")
    add_address(serve)
    serve.set_defaults(act=_serve)
    readers = actions.add_parser("readers", help="every reader's private link and number of answers")
    readers.add_argument("folder", metavar="KIT")
    readers.add_argument(
        "--add",
        action="append",
        default=[],
        metavar="NAME",
        help="a private link for one more reader (may be repeated)",
    )
    readers.add_argument(
        "--address",
        default="http://127.0.0.1:7860",
        help="where readers reach the kit (default: http://127.0.0.1:7860)",
    )
    readers.set_defaults(act=_readers)
    export = actions.add_parser("export", help="all answers as a workbook, with a sheet of the readers' links")
    export.add_argument("folder", metavar="KIT")
    export.add_argument("workbook", metavar="OUT", help="answers.xlsx, or answers.csv for the answers alone")
    export.add_argument("--key", metavar="FILE", help="the kit's key (default: KIT_key.csv beside the kit)")
    export.add_argument("--partial", action="store_true", help="also readers who have not finished")
    export.set_defaults(act=_export)
    template = actions.add_parser("template", help="an empty workbook for answers collected in another way")
    template.add_argument("workbook", metavar="OUT.xlsx")
    template.set_defaults(act=_template)


def add_address(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where a page is served."""
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in (default: this one only)")
    parser.add_argument("--root-path", metavar="/PATH", help="the prefix under which a reverse proxy shows the page")


def _build(options: argparse.Namespace) -> None:
    from dermstudy.data import dataset, splits
    from dermstudy_commands.readers import served

    saved = Path(options.data, "cohort.csv").is_file()
    cohort = dataset.open_cohort(options.data) if saved else dataset.load_folder(options.data)
    if not saved or options.split:
        if not options.split:
            raise InputError(f"{options.data} does not say which lesions are held out: give --split tables/split.csv")
        cohort.frame["split"] = splits.apply_split(cohort.frame, options.split)
    synthetic = dataset.open_synthetic(options.synthetic)
    folder, key = served.build(
        synthetic, cohort.select(split="test"), options.folder, options.per_entity, options.seed, options.reader
    )
    print(f"{14 * options.per_entity} images in {folder}; the key, which no reader may see, is {key}")
    if options.reader:
        print(f"{len(options.reader)} private links: 'dermstudy kit readers {folder}' lists them")


def _serve(options: argparse.Namespace) -> None:
    from dermstudy_commands.readers import form

    form.serve(options.folder, options.port, options.host, options.root_path or "")


def _readers(options: argparse.Namespace) -> None:
    from dermstudy_commands.readers import served, store

    served.open_kit(options.folder)
    names = [store.reader_name(name) for name in options.add]
    for name in names:
        store.add_reader(options.folder, name)
    known = served.links(options.folder, options.address)
    if known.empty:
        print("no reader has a link yet: give --add NAME, or serve the kit")
    for row in known.itertuples():
        print(f"{row.reader}: {row.answered} of {row.of} answered, {row.link}")


def _export(options: argparse.Namespace) -> None:
    from dermstudy.readers import workbook
    from dermstudy_commands.readers import served

    key = options.key or f"{options.folder.rstrip('/')}_key.csv"
    if Path(options.workbook).is_dir():
        raise InputError(f"{options.workbook} is a folder: name the workbook to write, such as answers.xlsx")
    answers = served.export(options.folder, key, options.partial)
    path = workbook.write_workbook(answers, options.workbook, served.links(options.folder))
    print(f"{len(answers)} answers of {answers['reader'].nunique()} reader(s) in {path}")


def _template(options: argparse.Namespace) -> None:
    from dermstudy_commands.readers import template

    print(f"an empty workbook is {template.write_template(options.workbook)}")
