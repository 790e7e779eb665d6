"""The command line: `dermstudy run`, `data`, `convert`."""

from __future__ import annotations

import argparse
import sys

from dermstudy.files import InputError


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
        print("dermstudy: interrupted; the same command goes on from the last finished notebook", file=sys.stderr)
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

    study.run(options.profile, options.data, options.results, options.only, options.start, options.force)


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
