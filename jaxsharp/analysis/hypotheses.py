"""Hypotheses: which measure, which target, and the sign that Kendall's tau of both is to have."""

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxsharp.analysis.coefficients import Coefficient
from jaxsharp.core.choices import known, shown

SIGNS = ("+", "-")
EXPLORATORY = "exploratory"
YES, NO, OPEN = "yes", "no", "open"
FORM = "MEASURE:SIGN:TARGET with the sign + or -, as in minimum_sharpness:+:gap"


@dataclass(frozen=True, order=True)
class Hypothesis:
    """That Kendall's tau of a measure with a target is positive ("+") or negative ("-")."""

    measure: str
    sign: str
    target: str

    def __str__(self) -> str:
        return f"{self.measure}:{self.sign}:{self.target}"


def parse_hypotheses(
    given: str | Sequence[Any], measures: Iterable[str], targets: Iterable[str]
) -> tuple[Hypothesis, ...]:
    """Return the hypotheses of texts "MEASURE:SIGN:TARGET", or of one with commas between them.

    They are sorted, so that in which order they are given makes no difference. Raises ValueError
    for another form, a sign that is none, a measure or target that is none of these, and for a
    measure and a target that are there twice, with one sign or with both.
    """
    if isinstance(given, str):
        given = [text.strip() for text in given.split(",")]
    found = []
    for text in given:
        if not isinstance(text, str) or not (parts := re.fullmatch(r"(.+):([^:]*):(.+)", text)):
            raise ValueError(f"hypotheses has {shown(text)}; it must be {FORM}")
        found.append(Hypothesis(*(part.strip() for part in parts.groups())))
    if not found:
        raise ValueError(f"hypotheses is empty; give one or more, each {FORM}")
    return check_hypotheses(found, measures, targets)


def check_hypotheses(
    found: Iterable[Hypothesis], measures: Iterable[str], targets: Iterable[str]
) -> tuple[Hypothesis, ...]:
    """The hypotheses, sorted; raises as `parse_hypotheses` does."""
    measures, targets = list(measures), list(targets)
    signs: dict[tuple[str, str], str] = {}
    for each in found:
        if each.sign not in SIGNS:
            raise ValueError(
                f"hypotheses has {shown(str(each))} with the sign {shown(each.sign)}; "
                "it must be + or -"
            )
        known("measure of a hypothesis", each.measure, measures)
        known("target of a hypothesis", each.target, targets)
        before = signs.setdefault((each.measure, each.target), each.sign)
        if before != each.sign:
            raise ValueError(
                f"hypotheses expects both signs of {each.measure} with {each.target}; give one"
            )
    found = sorted(found)
    for one, other in itertools.pairwise(found):
        if one == other:
            raise ValueError(f"hypotheses has {one} twice; give it once")
    return tuple(found)


def written(found: Iterable[Hypothesis]) -> str:
    """Hypotheses with commas between them, as `parse_hypotheses` reads them."""
    return ",".join(map(str, found))


def agreement(sign: str, found: Coefficient, holds: bool = True) -> str:
    """Return whether a coefficient has the sign that is expected.

    "yes" if its interval lies on that side of 0, "no" if on the other one, "open" if it has 0, if
    there is none, or where something else speaks against it (``holds`` is false).
    """
    low, high = (found.low, found.high) if sign == "+" else (-found.high, -found.low)
    if not holds or not (low > 0 or high < 0):
        return OPEN
    return YES if low > 0 else NO
