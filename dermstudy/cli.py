"""The command line: `dermstudy run`, `dermstudy data`."""

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


if __name__ == "__main__":
    sys.exit(main())
