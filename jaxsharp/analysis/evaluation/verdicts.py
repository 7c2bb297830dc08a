"""What the coefficients of a measure say together, in a word or two."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxsharp.analysis.coefficients import Coefficient

PREDICTS = "predicts"
NOTHING = "nothing found"
LOSS = "training loss"
SETTINGS = "settings"
BOTH = "loss and settings"
SIGNS = "signs differ"
UNDECIDED = "undecided"
CONTROL = "below a control"


class Verdict(NamedTuple):
    """One of the words above; why nothing is decided, or the control."""

    text: str
    reason: str = ""


def verdict(
    raw: Coefficient,
    within: Coefficient,
    p_value: float,
    given_loss: Coefficient | None,
    given_all: Coefficient,
    controls: Mapping[str, float],
    level: float,
) -> Verdict:
    """Return what is left of a relation, by the first of these that holds.

        undecided         raw tau has no interval; or one below has none, when its turn comes
        nothing found     the interval of raw tau has 0, and that of within tau or its p-value too
        training loss     the interval of tau given the loss has 0
        settings          within tau: its interval has 0, or its p-value is above the level
        loss and settings the interval of tau given the loss and all hyper-parameters has 0
        signs differ      the four are not all positive or all negative
        below a control   a control has a raw tau as large in absolute value
        predicts          none of these

    Loss and settings (the hyper-parameters) are then enough to explain the relation; nothing here
    says that they cause it. `p_value` is
    adjusted for the number of measures, `level` 1 - confidence; `given_loss` is None in a table
    without training loss; `controls` has the raw tau of each.
    """
    inside = _excludes_zero(within) and p_value < level
    if raw.remark or np.isnan(raw.value):
        return Verdict(UNDECIDED, raw.remark or "undefined")
    if not (_excludes_zero(raw) or inside):
        return Verdict(NOTHING)
    steps = [] if given_loss is None else [("given the loss", given_loss, LOSS)]
    steps += [("within", within, SETTINGS), ("given loss and hyper-parameters", given_all, BOTH)]
    for name, found, word in steps:
        if found.remark or np.isnan(found.value):
            return Verdict(UNDECIDED, f"{name}: {found.remark or 'undefined'}")
        if not _excludes_zero(found) or (word == SETTINGS and not inside):
            return Verdict(word)
    if len({np.sign(raw.value), *(np.sign(found.value) for _, found, _ in steps)}) > 1:
        return Verdict(SIGNS)
    strongest = max(controls, key=lambda name: abs(controls[name]), default=None)
    if strongest is not None and abs(controls[strongest]) >= abs(raw.value):
        return Verdict(CONTROL, strongest)
    return Verdict(PREDICTS)


def _excludes_zero(found: Coefficient) -> bool:
    """Whether there is an interval, and it lies on one side of 0."""
    return found.low > 0 or found.high < 0
