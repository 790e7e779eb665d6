"""What is described of the trial and never tested: the protocol's pairs of training sets, and those that were added later.

The amendments of docs/PROTOCOL.md list them; a test holds the two together.
"""

from __future__ import annotations

from dermstudy.classification.protocol import (
    DESCRIBED,
    DESCRIBED_ONLY,
    FROZEN,
    HALF,
    MACRO_AUC,
    ONCE,
    ORIGINALS,
    RARE_AUC,
    REPEATED,
    SUBSET_BORROWED,
    SUBSET_OWN,
    TUNED,
    TWICE,
    Comparison,
    difference,
)


def _pair(network: str, first: str, second: str, measure: str = MACRO_AUC, name: str = "") -> Comparison:
    name = name or f"{first} against {second}"
    return Comparison(name, DESCRIBED_ONLY, network, difference(first, second), first, measure)


ADDED = (
    _pair(FROZEN, HALF, ORIGINALS),
    _pair(FROZEN, ONCE, HALF),
    _pair(FROZEN, TWICE, ONCE),
    _pair(FROZEN, SUBSET_OWN, SUBSET_BORROWED),
    _pair(TUNED, ONCE, ORIGINALS),
    _pair(TUNED, ONCE, REPEATED, RARE_AUC, "rare entities alone, synthetic against repeated originals"),
)
PAIRS = DESCRIBED + ADDED
