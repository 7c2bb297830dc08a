"""Training losses at which a run is saved: at the first epoch below each of them."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from jaxsharp.core.choices import is_a, shown

VALID = "finite numbers above 0, separated by commas, each once, as in 1,0.3,0.1"


def thresholds(text: str | None) -> tuple[float, ...]:
    """The losses that a text has, the largest first; ValueError for another text.

    They are told apart as the losses of an epoch are, in float32.
    """
    if text is None:
        return ()
    try:
        found = sorted({float(part) for part in text.split(",")}, reverse=True)
    except ValueError:
        found = []
    single = [np.float32(loss) for loss in found if abs(loss) < float(np.finfo(np.float32).max)]
    valid = len(single) == len(found) == text.count(",") + 1 == len(set(single))
    if not valid or not all(0 < loss < math.inf for loss in single):
        raise ValueError(f"save_losses is {shown(text)}; it must be {VALID}")
    return tuple(found)


def as_text(losses: Any) -> str | None:
    """The text of losses that Python gives as a text, a number or a sequence of them."""
    if losses is None or isinstance(losses, str):
        return losses
    several = losses if isinstance(losses, Iterable) else [losses]
    values = [each.item() if isinstance(each, np.generic) else each for each in several]
    if not all(is_a(each, float) for each in values):
        raise ValueError(f"save_losses is {shown(losses)}; it must be {VALID}")
    return ",".join(map(repr, values))


def ordered(text: str | None) -> str | None:
    """The text with the largest loss first, each as short as it is; one that is none as it is."""
    try:
        found = thresholds(text)
    except ValueError:
        return text
    return ",".join(map(spelled, found)) or None


def spelled(loss: float) -> str:
    """A loss as texts and columns have it."""
    return repr(loss).removesuffix(".0")


def first_below(losses: np.ndarray, limits: Iterable[float]) -> dict[float, int]:
    """The first epoch, from 1, whose loss is below each of the limits that losses came below."""
    after = losses.astype(np.float32)
    found = {limit: after < np.float32(limit) for limit in limits}
    return {limit: int(below.argmax()) + 1 for limit, below in found.items() if below.any()}


def column(limit: float) -> str:
    """The column of tables that is true at the first epoch below a loss."""
    return f"first_below_{spelled(limit)}"
