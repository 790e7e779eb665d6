"""The trial's protocol as constants: training sets, networks, seeds, comparisons, margin and verdicts.

docs/PROTOCOL.md says the same in words; tests hold the two together and trial.csv to exactly these comparisons.
"""

from __future__ import annotations

from dataclasses import dataclass

# Networks, and how many seeds each is trained with. A seed of the frozen features weighs training
# lesions, alike for every training set of the same lesions, so that two training sets are compared seed by seed.
FROZEN, TUNED, KERAS = "frozen features", "fine-tuned", "Keras CNN"
SEEDS = {FROZEN: 20, TUNED: 5, KERAS: 5}

# Training sets. Synthetic images come from a generator that learned from training lesions only.
ORIGINALS = "all originals"
HALF = "all originals + synthetic, dose 0.5"
ONCE = "all originals + synthetic, dose 1"
TWICE = "all originals + synthetic, dose 2"
BALANCED = "all originals + balanced synthetic, dose 1"
RARE_ONLY = "all originals + synthetic of rare entities, dose 1"
SECOND = "all originals + synthetic of the second generator, dose 1"
REPEATED = "all originals + repeated originals, dose 1"
REPEATED_BALANCED = "all originals + balanced repeated originals, dose 1"
REPEATED_RARE = "all originals + repeated originals of rare entities, dose 1"
OVERSAMPLING = "oversampling"
CLASS_WEIGHTS = "class weights"
LOGIT_ADJUSTMENT = "logit adjustment"
STRONGER = "stronger augmentation"
SYNTHETIC_ONLY = "synthetic only"
LONGER = "longer training"
SUBSET = "30 % subset"
SUBSET_OWN = "30 % subset + synthetic of its own generator, dose 1"
SUBSET_BORROWED = "30 % subset + synthetic of the generator that saw all, dose 1"
TRAINING_SETS = {
    FROZEN: (
        ORIGINALS, HALF, ONCE, TWICE, BALANCED, RARE_ONLY, SECOND, REPEATED, REPEATED_BALANCED, REPEATED_RARE,
        OVERSAMPLING, CLASS_WEIGHTS, LOGIT_ADJUSTMENT, STRONGER, SYNTHETIC_ONLY, SUBSET, SUBSET_OWN, SUBSET_BORROWED,
    ),
    TUNED: (ORIGINALS, ONCE, REPEATED, SUBSET),
    KERAS: (ORIGINALS, REPEATED, ONCE, LONGER),
}  # fmt: skip

RARE = ("akiec", "bcc", "df", "vasc")  # each has less than a tenth of the nevi's training images
MACRO_AUC, RARE_AUC = "macro AUC", "mean AUC of the rare entities"
MEASURES = {MACRO_AUC: None, RARE_AUC: RARE}  # the entities whose areas are averaged; None: all in the test set

LEVEL = 0.05  # two-sided for differences; each one-sided test of equivalence takes half of it
MARGIN = 0.015  # of either measure, and of a slope by unit of dose
MISSING = 0.1  # a comparison that lost more than this share of its seeds is not resolved
DOSES = {ORIGINALS: 0.0, HALF: 0.5, ONCE: 1.0, TWICE: 2.0}

TREND = "linear trend of dose"
SECOND_GENERATOR = "second generator"  # the comparison that reruns the primary one
TUNED_PRIMARY = "fine-tuned, synthetic against repeated originals"  # the primary one of a stronger network
PRIMARY, FAMILY, CONTROL, SENSITIVITY = "primary", "family", "positive control", "sensitivity"
DESCRIBED_ONLY = "described"
HELPS, HARMS, EQUIVALENT, NOT_RESOLVED = "helps", "harms", "equivalent", "not resolved"
VERDICTS = (HELPS, HARMS, EQUIVALENT, NOT_RESOLVED)


@dataclass(frozen=True)
class Comparison:
    """One contrast of training sets: the sum of `coefficients` times their measure, on the images of `splits`.

    role: PRIMARY, FAMILY (Holm), CONTROL, SENSITIVITY or DESCRIBED_ONLY. subject: what the sentence of the verdict speaks of.
    """

    name: str
    role: str
    network: str
    coefficients: tuple[tuple[str, float], ...]
    subject: str
    measure: str = MACRO_AUC
    splits: tuple[str, ...] = ("test",)
    margin: float = MARGIN

    @property
    def training_sets(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.coefficients)


def difference(first: str, second: str) -> tuple[tuple[str, float], ...]:
    """Coefficients of `first` minus `second`."""
    return (first, 1.0), (second, -1.0)


def slope(doses: dict[str, float]) -> tuple[tuple[str, float], ...]:
    """Coefficients of the least-squares slope of a measure over `doses`, by unit of dose."""
    centre = sum(doses.values()) / len(doses)
    spread = sum((dose - centre) ** 2 for dose in doses.values())
    return tuple((name, (dose - centre) / spread) for name, dose in doses.items())


_SYNTHETIC = "adding synthetic images in place of repeated originals"
COMPARISONS = (
    Comparison("synthetic against repeated originals", PRIMARY, FROZEN, difference(ONCE, REPEATED), _SYNTHETIC),
    Comparison(TREND, FAMILY, FROZEN, slope(DOSES), "each further dose of synthetic images"),
    Comparison(
        "rare entities alone", FAMILY, FROZEN, difference(ONCE, REPEATED),
        f"{_SYNTHETIC}, for the rare entities,", RARE_AUC,
    ),
    Comparison(
        "30 % subset with and without its own generator", FAMILY, FROZEN, difference(SUBSET_OWN, SUBSET),
        "adding synthetic images to the 30 % subset",
    ),
    Comparison(
        "combined against longer training", FAMILY, KERAS, difference(ONCE, LONGER),
        "adding synthetic images in place of longer training",
    ),
    Comparison(
        "all originals against the 30 % subset", CONTROL, FROZEN, difference(ORIGINALS, SUBSET),
        "having all originals in place of 30 % of them",
    ),
    Comparison(
        SECOND_GENERATOR, SENSITIVITY, FROZEN, difference(SECOND, REPEATED),
        "adding the second generator's images in place of repeated originals",
    ),
    Comparison(
        TUNED_PRIMARY, SENSITIVITY, TUNED, difference(ONCE, REPEATED),
        f"{_SYNTHETIC}, for the fine-tuned network,",
    ),
    Comparison(
        "fine-tuned, all originals against the 30 % subset", SENSITIVITY, TUNED, difference(ORIGINALS, SUBSET),
        "having all originals in place of 30 % of them, for the fine-tuned network,",
    ),
    Comparison(
        "validation and test lesions pooled", SENSITIVITY, FROZEN, difference(ONCE, REPEATED),
        f"{_SYNTHETIC}, on validation and test lesions together,", splits=("validation", "test"),
    ),
)  # fmt: skip

# Pairs of training sets whose differences are described and never tested; the last seven stand in amendments.
PAIRS = (
    *(
        Comparison(f"{first} against {second}", DESCRIBED_ONLY, network, difference(first, second), first)
        for network, first, second in (
            (FROZEN, ONCE, ORIGINALS),
            (FROZEN, REPEATED, ORIGINALS),
            (FROZEN, BALANCED, REPEATED_BALANCED),
            (FROZEN, BALANCED, ORIGINALS),
            (FROZEN, RARE_ONLY, ORIGINALS),
            (FROZEN, OVERSAMPLING, ORIGINALS),
            (FROZEN, CLASS_WEIGHTS, ORIGINALS),
            (FROZEN, LOGIT_ADJUSTMENT, ORIGINALS),
            (FROZEN, STRONGER, ORIGINALS),
            (FROZEN, SYNTHETIC_ONLY, ORIGINALS),
            (FROZEN, SUBSET_BORROWED, SUBSET),
            (KERAS, ONCE, ORIGINALS),
            (KERAS, ONCE, REPEATED),
            (FROZEN, HALF, ORIGINALS),
            (FROZEN, ONCE, HALF),
            (FROZEN, TWICE, ONCE),
            (FROZEN, SUBSET_OWN, SUBSET_BORROWED),
            (TUNED, ONCE, ORIGINALS),
            (FROZEN, RARE_ONLY, REPEATED_RARE),
        )
    ),
    Comparison(
        "rare entities alone, synthetic against repeated originals", DESCRIBED_ONLY, TUNED, difference(ONCE, REPEATED),
        ONCE, RARE_AUC,
    ),
)  # fmt: skip

# The one sentence a verdict is told in; numbers are written by `signed` and `unsigned`.
_MEASURED = "(95 % interval {low} to {high}, {p})"
WORDING = {
    HELPS: "{Subject} helps: {measure} rises by {size} " + _MEASURED + ".",
    HARMS: "{Subject} harms: {measure} falls by {size} " + _MEASURED + ".",
    EQUIVALENT: "{Subject} makes no difference that matters: {measure} changes by {difference} " + _MEASURED
    + ", inside the margin of ±{margin}.",
    NOT_RESOLVED: "Whether {subject} helps is not resolved: {measure} changes by {difference} " + _MEASURED
    + ", margin ±{margin}.",
}  # fmt: skip
SMALL = "The whole interval lies inside the margin of ±{margin}: the change is real and small."
CONTROL_FOUND = "The positive control is found: {subject} raises {measure} by {size} " + _MEASURED + "."
CONTROL_MISSED = (
    "The positive control is missed, so the trial has no power to call anything equivalent: {subject} changes {measure} by "
    "{difference} " + _MEASURED + "."
)
NO_CONTROL = "No positive control ran beside these comparisons, so none of them is called equivalent."
OTHER_GENERATOR = (
    "With the second generator the verdict is another, {verdict}: {measure} changes by {difference} " + _MEASURED + "."
)
OTHER_LOST = "With the second generator the verdict is another, not resolved: {missing} of {planned} seeds are missing."
LOST = "Whether {subject} helps is not resolved: {missing} of {planned} seeds are missing, more than one in ten."


def unsigned(value: float) -> str:
    """Three decimals."""
    return f"{abs(value):.3f}"


def signed(value: float) -> str:
    """Three decimals with a sign, zero without."""
    text = unsigned(value)
    return text if float(text) == 0 else ("−" if value < 0 else "+") + text


def bound(value: float) -> str:
    """`signed`, with a fourth decimal where three would hide on which side of zero an interval ends."""
    if round(abs(value), 3) == 0 and round(abs(value), 4) > 0:
        return f"{'−' if value < 0 else '+'}{abs(value):.4f}"
    return signed(value)


def p_words(p: float) -> str:
    """ "= 0.012", "= 0.35" or "< 0.001"."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}" if p < 0.1 else f"= {p:.2f}"
