"""The evaluation of a table of runs: one row a measure, and one a control."""

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from jaxsharp.analysis import coefficients, statistics
from jaxsharp.analysis.coefficients import NAN, Coefficient
from jaxsharp.analysis.evaluation import pairs, partial, regressions, resampling
from jaxsharp.analysis.evaluation.inputs import Plan, Roles, planned
from jaxsharp.analysis.evaluation.notes import headline, notes
from jaxsharp.analysis.evaluation.samples import Sample, covariates, sample
from jaxsharp.analysis.evaluation.verdicts import verdict
from jaxsharp.analysis.hypotheses import EXPLORATORY, agreement
from jaxsharp.analysis.means import check_confidence
from jaxsharp.core.choices import known, shown

EXTRAS = ("granulated", "worst_environment", "cmi", "increment", "slope")
"""Columns that the verdict does not need."""
INTERVALS = ("raw", "within", "given_loss", "given_all", "slope")
ROUNDS = 2000


class Evaluation(NamedTuple):
    """What a table of runs says of its measures.

    `table` has one row a measure, then one a control (column `kind`): for each of `INTERVALS` the
    value, NAME_low, NAME_high and NAME_remark, why it has no interval; what `evaluate` defines
    else; and the numbers of runs, configurations, and runs left out by reason. `headline` is a
    sentence, `notes` have what entered and what did not, a line each.
    """

    table: pd.DataFrame
    headline: str
    notes: tuple[str, ...]
    target: str
    confidence: float


class Core(NamedTuple):
    """The coefficients that a verdict rests on, and the p-value of that within configurations."""

    raw: Coefficient
    within: Coefficient
    p_value: float
    given_loss: Coefficient
    given_all: Coefficient


def evaluate(
    table: pd.DataFrame,
    *,
    measures: Sequence[str],
    target: str,
    hyper: Sequence[str],
    seed: str | None,
    converged: str | None,
    diverged: str | None = "diverged",
    loss: str | None = "train_loss",
    controls: Sequence[str] = (),
    unconverged: bool = False,
    noise: float = 0.0,
    confidence: float = 0.95,
    columns: Sequence[str] = EXTRAS,
    rounds: int = ROUNDS,
    draw: int = 0,
    hypotheses: str | Sequence[str] = (),
) -> Evaluation:
    """Return what each measure says of the target, with controls in the same table.

    A configuration is a combination of values of `hyper`. Columns, for each measure:

        raw         Kendall's tau-b over all pairs of runs; bootstrap over configurations
        within      over pairs of one configuration, which differ by the seed; jackknife;
                    within_p by permutation, within_p_holm adjusted for the number of measures
        granulated  Psi of Jiang et al., and granulated_NAME of each hyper-parameter
        worst_environment   the largest sign error of Dziugaite et al.; worst_environment_of: where
        cmi         conditional mutual information of Jiang et al.
        partial_loss        Kendall's partial coefficient given the training loss
        given_loss  tau of what is left of the ranks given the loss; given_all: given the loss and
                    every hyper-parameter that is a number
        increment   what the measure adds to the cross-validated R^2 of loss and hyper-parameters:
                    r2_with - r2
        slope       of a mixed model, in units of the target for a standard deviation
        verdict     `verdicts.verdict`, and verdict_reason

    The functions of `pairs`, `partial`, `regressions` and `resampling` have formulas and sources.
    Controls: every hyper-parameter (one row a value where it is text), the training loss, the
    columns of `controls`, num_params if the table has it, and a random number; not those that are
    constant over the runs that enter.

    Runs that diverged never enter; those that did not converge only if nothing says which did, or
    with `unconverged`; a row leaves out runs whose measure is not finite or not finished, and
    counts them. Measures with a column NAME_error that is a standard error (NAME_error_kind, or
    without such a column) are tied where they differ by less than two of it. There is no interval
    with fewer than 8 configurations.

    With `hypotheses` there are more columns: hypothesis, the sign expected of a measure or
    "exploratory"; raw_agrees and within_agrees, "yes" if the interval lies on the side of 0 that
    was expected (and within_p_holm is below the level), "no" if on the other one, else "open".
    within_p_holm is then adjusted for the number of hypotheses, on other targets and of measures
    that are not evaluated too, whose p-values count as 1; apart from them, for that of the
    exploratory measures.

    Args:
        table: One row a run.
        measures: Columns to evaluate.
        target: Column that they may predict, a generalization gap.
        hyper: Columns of hyper-parameters; those that do not vary are dropped.
        seed: Column of seeds that are equal where runs share them; None if runs share nothing.
        converged: Column of true and false, missing where there was no rule; None without one.
        diverged: Column of true and false; None, or one that the table lacks, if none diverged.
        loss: Column of the training loss; None for a table without one.
        controls: Further columns to show as controls.
        unconverged: Let runs enter that did not converge.
        noise: Differences of the target that are noise, for the worst environment.
        confidence: Of all intervals; 1 - confidence is the level of the verdict.
        columns: Which of `EXTRAS` to compute.
        rounds: Draws of the bootstrap, and permutations.
        draw: Seed of these, and of the random control. A row depends on no other row.
        hypotheses: What was expected before the runs were seen, as in "x:+:gap": a positive tau of
            the measure x with the target gap. Measures without one are exploratory.

    Raises ValueError for columns that are missing, twice, no numbers or without a finite value, and
    for other arguments outside of their ranges.

    References: evaluation of measures as in Jiang et al. (2020), ICLR; Dziugaite et al. (2020),
    NeurIPS; Andriushchenko et al. (2023), ICML.
    """
    diverged = diverged if diverged in table.columns else None
    roles = Roles(
        *(tuple(measures), target, tuple(hyper), seed, converged, diverged, loss, tuple(controls))
    )
    plan = planned(table, roles, unconverged, draw, hypotheses)
    for name in columns:
        known("column", name, EXTRAS)
    check_confidence(confidence)
    if not (0 <= noise < np.inf):
        raise ValueError(f"noise is {noise}; it must be a finite number from 0")
    if rounds < 99:
        raise ValueError(f"rounds is {shown(rounds)}; it must be at least 99")
    rows = []
    for name in (*plan.measures, *plan.controls):
        rng = np.random.default_rng([draw, zlib.crc32(name.encode())])
        rows.append(_row(plan, name, set(columns), noise, confidence, rounds, rng))
    _judge(rows, plan, confidence)
    found = pd.DataFrame([r for r in rows if r["kind"] == "measure" or r["raw"] == r["raw"]])
    said = headline(found, plan), notes(found, plan, noise, confidence)
    return Evaluation(found, *said, target, confidence)


def _row(plan: Plan, name: str, extras: set[str], noise, confidence, rounds, rng) -> dict[str, Any]:
    """All columns of a measure or control, but for what other rows decide."""
    needed = [name, plan.target, *([] if plan.loss is None else [plan.loss])]
    split = statistics.usable(plan.table, needed)
    found = sample(
        *(split.kept, name, plan.target),
        error=plan.errors.get(name),
        loss=plan.loss,
        hyper=plan.hyper,
        seed=plan.seed,
    )
    runs = found.runs
    row: dict[str, Any] = {
        "measure": name,
        "kind": "measure" if name in plan.measures else "control",
        "runs": len(runs.x),
        "configurations": len(np.unique(runs.group)),
    }
    found_core = core(found, confidence, rounds, rng)
    row |= _spread("raw", found_core.raw) | _spread("within", found_core.within)
    row |= {"within_p": found_core.p_value, "within_p_holm": NAN}
    row |= _extras(found, plan, extras, noise, confidence)
    row["partial_loss"] = NAN if found.loss is None else partial.partial_tau(runs, found.loss)
    row |= _spread("given_loss", found_core.given_loss)
    row |= _spread("given_all", found_core.given_all)
    return row | split.counts


def core(found: Sample, confidence: float, rounds: int, rng: np.random.Generator) -> Core:
    """What the verdict on a measure needs."""
    runs, every = found.runs, covariates(found.hyper)
    given_loss = Coefficient(NAN, NAN, NAN, "no training loss")
    if found.loss is not None:
        given_loss = partial.residual_tau(runs, [found.loss], confidence)
        every = [found.loss, *every]
    return Core(
        resampling.bootstrap_tau(runs, confidence, rounds, rng),
        coefficients.kendall_within(runs, confidence),
        resampling.permutation_p_value(runs, rounds, rng),
        given_loss,
        partial.residual_tau(runs, every, confidence),
    )


def _extras(
    found: Sample, plan: Plan, extras: set[str], noise: float, confidence: float
) -> dict[str, Any]:
    """The columns that the verdict does not need."""
    row: dict[str, Any] = {}
    if "granulated" in extras:
        psi = pairs.granulated(found)
        row["granulated"] = psi.value
        row |= {f"granulated_{h}": each for h, each in zip(plan.hyper, psi.each, strict=True)}
    if "worst_environment" in extras:
        worst = pairs.worst_environment(found, noise)
        row["worst_environment"] = worst.error
        row["worst_environment_of"] = _described(found, plan, worst)
        row |= {"environments": worst.environments, "pairs": worst.pairs, "noisy": worst.noisy}
    if "cmi" in extras:
        row["cmi"] = pairs.conditional_information(found)
    if "increment" in extras:
        gain = regressions.increment(found)
        row |= {"r2": gain.without, "r2_with": gain.included, "increment": gain.value}
    if "slope" in extras:
        row |= _spread("slope", regressions.mixed_slope(found, confidence))
    return row


def _described(found: Sample, plan: Plan, worst: pairs.Worst) -> str:
    """An environment in words: what differs, and the values of the other hyper-parameters."""
    if worst.hyper < 0:
        return ""
    first, second = (found.hyper.iloc[run] for run in worst.runs)
    name = plan.hyper[worst.hyper]
    text = f"{name} {first[name]} or {second[name]}"
    others = ", ".join(f"{h} {first[h]}" for h in plan.hyper if h != name)
    return f"{text} at {others}" if others else text


def _spread(name: str, found: Coefficient) -> dict[str, Any]:
    """A coefficient as four columns."""
    value, low, high, remark = found
    return {name: value, f"{name}_low": low, f"{name}_high": high, f"{name}_remark": remark}


def _judge(rows: list[dict[str, Any]], plan: Plan, confidence: float) -> None:
    """Adjust the p-values of measures for their number, and give each its verdict."""
    of_measures = [row for row in rows if row["kind"] == "measure"]
    taus = {r["measure"]: r["raw"] for r in rows if r["kind"] == "control" and r["raw"] == r["raw"]}
    stated = [row for row in of_measures if row["measure"] in plan.expected]
    others = [row for row in of_measures if row["measure"] not in plan.expected]
    for family, more in ((stated, len(plan.elsewhere)), (others, 0)):
        adjusted = resampling.holm([row["within_p"] for row in family], more)
        for row, p_value in zip(family, adjusted, strict=True):
            row["within_p_holm"] = p_value
    for row in of_measures:
        p_value = row["within_p_holm"]
        raw, within, given_loss, given_all = (
            Coefficient(*(row[f"{name}{end}"] for end in ("", "_low", "_high", "_remark")))
            for name in ("raw", "within", "given_loss", "given_all")
        )
        if plan.expected or plan.elsewhere:
            sign = plan.expected.get(row["measure"])
            row |= {"hypothesis": sign or EXPLORATORY, "raw_agrees": "", "within_agrees": ""}
            if sign is not None:
                row["raw_agrees"] = agreement(sign, raw)
                row["within_agrees"] = agreement(sign, within, p_value < 1 - confidence)
        told = verdict(
            *(raw, within, p_value, None if plan.loss is None else given_loss, given_all),
            *(taus, 1 - confidence),
        )
        row |= {"verdict": told.text, "verdict_reason": told.reason}
    for row in rows:
        for name in of_measures[0]:
            row.setdefault(name, "")
