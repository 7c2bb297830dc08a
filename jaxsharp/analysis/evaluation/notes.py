"""What an evaluation says in words: a headline, and what entered it."""

import numpy as np
import pandas as pd

from jaxsharp.analysis import statistics
from jaxsharp.analysis.evaluation.inputs import Plan
from jaxsharp.analysis.evaluation.pairs import LEAST_PAIRS
from jaxsharp.analysis.evaluation.samples import covariates, numbered
from jaxsharp.analysis.evaluation.verdicts import PREDICTS, UNDECIDED
from jaxsharp.analysis.hypotheses import EXPLORATORY, NO, OPEN, YES, written
from jaxsharp.core.choices import counted


def headline(found: pd.DataFrame, plan: Plan) -> str:
    """How many measures predict the target, and the strongest control."""
    measures, controls = (found[found["kind"] == kind] for kind in ("measure", "control"))
    good = list(measures.loc[measures["verdict"] == PREDICTS, "measure"])
    open_ = int((measures["verdict"] == UNDECIDED).sum())
    beyond = (
        "training loss, hyper-parameters and controls"
        if plan.loss
        else ("hyper-parameters and controls")
    )
    verb = "predicts" if 1 in (len(good), len(measures)) else "predict"
    text = (
        f"{len(good)} of {counted(len(measures), 'measure')} {verb} {plan.target} beyond {beyond}"
    )
    unplanned = f" ({EXPLORATORY})" if plan.expected else ""
    named = [name if name in plan.expected else name + unplanned for name in good]
    text += f": {', '.join(named)}" if named else ""
    text += f"; {open_} undecided" if open_ else ""
    ranked = controls[controls["raw"].notna()]
    if len(ranked):
        best = ranked.loc[ranked["raw"].abs().idxmax()]
        text += f". The strongest control is {best['measure']}, raw tau {best['raw']:+.2f}"
    return f"{text}.{_of_hypotheses(measures, plan)}"


def _of_hypotheses(measures: pd.DataFrame, plan: Plan) -> str:
    """How many hypotheses on the target the intervals agree with, in a sentence."""
    if not plan.expected:
        return ""
    told = []
    for name in ("raw", "within"):
        counts = measures[f"{name}_agrees"].value_counts()
        yes, no, unknown = (int(counts.get(word, 0)) for word in (YES, NO, OPEN))
        told.append(f"{name} tau agrees with {yes}, contradicts {no}, leaves {unknown} open")
    return f" Hypotheses on {plan.target}, {len(plan.expected)}: {'; '.join(told)}."


def notes(found: pd.DataFrame, plan: Plan, noise: float, confidence: float) -> tuple[str, ...]:
    """Which runs entered, what is tied, and what was left out, a line each."""
    table, measures = plan.table, found[found["kind"] == "measure"]
    seeds = "" if plan.seed is None else f", {counted(table[plan.seed].nunique(), 'seed')}"
    configurations = int(numbered(table, plan.hyper).max()) + 1
    size = f"{counted(len(table), 'run')} of {counted(configurations, 'configuration')}{seeds}"
    lines = [f"{size}; hyper-parameters that vary: {', '.join(plan.hyper) or 'none'}"]
    if plan.constant:
        lines.append(f"Hyper-parameters that do not vary: {', '.join(plan.constant)}")
    if again := _shared(plan):
        lines.append(
            f"{counted(again, 'run')} with hyper-parameters and seed of another; they count "
            "as if the seed differed: name what they differ in as a hyper-parameter"
        )
    fewest, most = measures["runs"].min(), measures["runs"].max()
    entered = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    most_out = {reason: int(measures[reason].max()) for reason in statistics.REASONS}
    out = ", ".join(f"{num} {reason}" for reason, num in most_out.items() if num)
    lines.append(f"{entered} runs enter{f' (left out at most: {out})' if out else ''}")
    if not plan.judged:
        lines.append(f"Nothing says which runs converged: all count{_epochs(table)}")
    if plan.unconverged:
        lines.append(f"{plan.unconverged} of the runs did not converge, and enter as asked")
    for name in plan.errors:
        lines.append(f"{name}: runs within two standard errors of each other are ties")
    if "worst_environment" in found:
        lines.append(
            f"Worst environment: pairs whose {plan.target} differs by at most {noise:g} are left "
            f"out, and environments with fewer than {LEAST_PAIRS} pairs"
        )
    given = [
        *([plan.loss] if plan.loss else []),
        *(c.name for c in covariates(table[[*plan.hyper]])),
    ]
    lines.append(f"tau given all: given {', '.join(map(str, given)) or 'nothing'}")
    lines.append(
        f"Intervals: {100 * confidence:g} %, over configurations; within: p-values by permutation, "
        f"adjusted by Holm for {_families(len(measures), plan)}"
    )
    lines += _hypotheses(plan, confidence)
    reasons = measures[measures["verdict_reason"] != ""]
    lines += [f"{r.measure}: {r.verdict}, {r.verdict_reason}" for r in reasons.itertuples()]
    return tuple(lines)


def _shared(plan: Plan) -> int:
    """How many runs have the hyper-parameters and the seed of one before them."""
    if plan.seed is None:
        return 0
    number = numbered(plan.table, [*plan.hyper, plan.seed])
    return len(number) - len(np.unique(number))


def _families(num: int, plan: Plan) -> str:
    """What p-values are adjusted for: the hypotheses, and the measures without one."""
    stated = len(plan.expected) + len(plan.elsewhere)
    if not stated:
        return counted(num, "measure")
    rest = counted(num - len(plan.expected), f"{EXPLORATORY} measure")
    words = "1 hypothesis" if stated == 1 else f"{stated} hypotheses"
    return f"{words}, and apart from that for {rest}"


def _hypotheses(plan: Plan, confidence: float) -> list[str]:
    """Which measures a hypothesis is on, and what it means to agree with it."""
    if not plan.expected and not plan.elsewhere:
        return ["No hypotheses: every measure is exploratory"]
    stated = [f"{name}:{sign}:{plan.target}" for name, sign in plan.expected.items()]
    lines = [
        f"Hypotheses: {', '.join(stated) or 'none on this target'}; other measures are "
        f"{EXPLORATORY}. Agrees: {YES} where the interval lies on the expected side of 0 (within: "
        f"and p is below {1 - confidence:.3g}), {NO} where on the other, else {OPEN}"
    ]
    if plan.elsewhere:
        lines.append(f"Not in this table, and counted by Holm as p = 1: {written(plan.elsewhere)}")
    return lines


def _epochs(table: pd.DataFrame) -> str:
    """At which epoch runs were measured, if the table says so."""
    if "epochs" not in table:
        return ""
    low, high = table["epochs"].min(), table["epochs"].max()
    last = f"{low:g}" if low == high else f"{low:g} to {high:g}"
    return f", at their last epoch ({last})"
