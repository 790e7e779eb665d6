"""`dermstudy classify`: its options and what it prints; the head itself is in `shipped_head`."""

from __future__ import annotations

import argparse


def add(commands) -> None:
    """Add `classify` to the command line's subparsers."""
    classify = commands.add_parser("classify", help="classify images by the shipped linear probe (not for diagnosis)")
    classify.add_argument("folder", metavar="FOLDER", help="dermatoscopic images, at any depth; no table is needed")
    classify.add_argument("--out", required=True, metavar="FILE.csv", help="the table to write, a row an image")
    classify.add_argument(
        "--prior",
        default="even",
        help="entities equally common (even, the default), or as in ham10000's training images",
    )
    classify.add_argument("--weights", metavar="FILE", help="another probe (default: weights/classifier's)")
    classify.set_defaults(act=_classify)


def _classify(options: argparse.Namespace) -> None:
    from dermstudy import workspace
    from dermstudy.classification import shipped_head

    weights = workspace.from_root(options.weights or shipped_head.WEIGHTS)
    table = shipped_head.classify(options.folder, options.out, weights, options.prior)
    counts = ", ".join(f"{name} {count}" for name, count in table["answer"].value_counts().items())
    print(f"{len(table)} images in {options.out} (not for diagnosis): {counts}")
