"""What the correlations of a study say, in a sentence."""

from collections.abc import Mapping

from jaxsharp.analysis.coefficients import written
from jaxsharp.analysis.looks import words
from jaxsharp.analysis.statistics import Correlation
from jaxsharp.core.choices import counted


def headline(correlations: Mapping[str, Correlation], gap: str) -> str:
    """Return whether the measures of a study go with its gap, as far as their intervals say.

    No raw coefficient stands without the one among runs of equal hyper-parameters.
    """
    intervals = {name: found for name, found in correlations.items() if not found.raw.remark}
    clear = [name for name, found in intervals.items() if found.raw.low * found.raw.high > 0]
    of_all = f"{len(clear) or 'none'} of {counted(len(correlations), 'measure')}"
    verb = "has" if len(clear) < 2 else "have"
    percent = next((f"{100 * found.confidence:g} %" for found in correlations.values()), "95 %")
    tau = f"a Kendall's tau with the {words(gap)} whose {percent} interval excludes zero"
    if not correlations:
        return "No measure was taken."
    if not intervals:
        verdict = f"Whether sharpness goes with the {words(gap)} cannot be said from these runs"
    elif not clear:
        verdict = f"That sharpness goes with the {words(gap)} is not shown: {of_all} {verb} {tau}"
    else:
        verdict = f"{of_all[0].upper()}{of_all[1:]} {verb} {tau}"
    shown = clear or list(intervals or correlations)[:1]
    return f"{verdict}. {' '.join(line(name, correlations[name]) for name in shown)}"


def line(name: str, found: Correlation) -> str:
    """Both coefficients of a measure, and the runs that they are made of."""
    total = found.num_runs + sum(found.excluded.values())
    out = ", ".join(f"{num} {reason}" for reason, num in found.excluded.items() if num)
    return (
        f"{words(name).capitalize()}: {written(found.raw)} over {found.num_runs} of "
        f"{counted(total, 'run')}{f' ({out} left out)' if out else ''}, among runs of equal "
        f"hyper-parameters {written(found.within)}."
    )
