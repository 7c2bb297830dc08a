"""Verdicts: their rules one by one, and how often they are right where the truth is known."""

import collections

import jaxtyping
import numpy as np
import pandas as pd
import pytest

from jaxsharp import analysis
from jaxsharp.analysis.coefficients import Coefficient, Runs
from jaxsharp.analysis.evaluation.evaluating import core
from jaxsharp.analysis.evaluation.samples import Sample
from jaxsharp.analysis.evaluation.verdicts import verdict

NAN = float("nan")
HIGH, LOW = Coefficient(0.5, 0.3, 0.7), Coefficient(-0.5, -0.7, -0.3)
NONE, OPEN = Coefficient(0.1, -0.2, 0.4), Coefficient(0.5, NAN, NAN, "3 seeds, 5 needed")


@pytest.mark.parametrize(
    ("found", "expected", "reason"),
    [
        ((HIGH, HIGH, 0.01, HIGH, HIGH), "predicts", ""),
        ((LOW, LOW, 0.01, LOW, LOW), "predicts", ""),
        ((OPEN, HIGH, 0.01, HIGH, HIGH), "undecided", "3 seeds, 5 needed"),
        ((Coefficient(NAN, NAN, NAN, "undefined"), HIGH, 0.01, HIGH, HIGH), "undecided", "undef"),
        ((NONE, NONE, 0.5, NONE, NONE), "nothing found", ""),
        ((NONE, HIGH, 0.06, HIGH, HIGH), "nothing found", ""),
        ((NONE, OPEN, 0.01, HIGH, HIGH), "nothing found", ""),
        ((HIGH, HIGH, 0.01, NONE, HIGH), "training loss", ""),
        ((NONE, HIGH, 0.01, NONE, HIGH), "training loss", ""),
        ((HIGH, NONE, 0.01, HIGH, HIGH), "settings", ""),
        ((HIGH, HIGH, 0.06, HIGH, HIGH), "settings", ""),
        ((HIGH, OPEN, 0.01, HIGH, HIGH), "undecided", "within: 3 seeds, 5 needed"),
        ((HIGH, HIGH, 0.01, HIGH, NONE), "loss and settings", ""),
        ((HIGH, HIGH, 0.01, OPEN, HIGH), "undecided", "given the loss: 3"),
        ((HIGH, HIGH, 0.01, HIGH, OPEN), "undecided", "given loss and hyper-parameters: 3"),
        ((HIGH, LOW, 0.01, HIGH, HIGH), "signs differ", ""),
        ((HIGH, HIGH, 0.01, None, HIGH), "predicts", ""),
    ],
)
def test_a_verdict_is_the_first_rule_that_holds(found, expected, reason):
    told = verdict(*found, {"rate": 0.4, "none": NAN}, 0.05)
    assert (
        told.text == expected
        and told.reason.startswith(reason)
        and bool(told.reason) == bool(reason)
    )


def test_a_measure_that_does_not_beat_the_controls_says_nothing():
    told = verdict(HIGH, HIGH, 0.01, HIGH, HIGH, {"loss": 0.1, "rate": -0.5, "size": 0.2}, 0.05)
    assert told == ("below a control", "rate")
    assert verdict(HIGH, HIGH, 0.01, HIGH, HIGH, {}, 0.05).text == "predicts"


# Simulated tables: 3 learning rates x 3 batch sizes x 5 seeds, which configurations share.

RATE, SIZE, SEED = (axis.ravel() for axis in np.meshgrid(*map(np.arange, (3, 3, 5)), indexing="ij"))
GROUP = 3 * RATE + SIZE
HYPER = pd.DataFrame({"rate": 10.0**-RATE, "size": 32 * 2**SIZE})
SCALED = (RATE - 1) / np.std(RATE)
TRUTHS = {
    "causes": "predicts",
    "rate": "settings",
    "loss": "training loss",
    "none": "nothing found",
}


def draw(rng, truth):
    """A measure, a gap, and a training loss that follows the learning rate."""

    def effect(configuration, seed, run):
        """Normal effects of the configuration, of the seed in all of them, and of the run."""
        shares = rng.normal(size=9)[GROUP], rng.normal(size=5)[SEED], rng.normal(size=45)
        return configuration * shares[0] + seed * shares[1] + run * shares[2]

    loss = 0.4 * SCALED + effect(0.3, 0.1, 0.6)
    if truth == "causes":
        x = 0.5 * SCALED + effect(1, 0.2, 0.7)
        gap = x + effect(0, 0.1, 0.4)
    elif truth == "rate":
        x, gap = (SCALED + effect(0, 0.2, 0.4) for _ in range(2))
    elif truth == "loss":
        x, gap = (loss + effect(0, 0, 0.3) for _ in range(2))
    else:
        x, gap = (effect(1, 0.2, 1) for _ in range(2))
    return np.exp(x), gap, np.exp(loss)


def verdict_on(rng, truth):
    """As `evaluate` has it, on arrays, with learning rate, batch size and loss as controls."""
    x, gap, loss = draw(rng, truth)
    others = np.stack([SIZE, RATE])
    arrays = Sample(Runs(x, gap, GROUP, SEED), loss, np.stack([RATE, SIZE]), others, HYPER)
    found = core(arrays, 0.95, 99, rng)
    taus = {}
    for name, control in (("rate", -SCALED), ("size", SIZE.astype(float)), ("loss", loss)):
        s, t = Runs(control, gap, GROUP, None).signs
        taus[name] = (s * t).sum() / np.sqrt((s * s).sum() * (t * t).sum())
    return verdict(*found, taus, 0.05).text


@pytest.fixture
def unchecked():
    """Without checks of shapes, which other tests have: they are two thirds of the time."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.slow
@pytest.mark.parametrize("truth", TRUTHS)
def test_verdicts_are_right_for_tables_whose_truth_is_known(truth, unchecked):
    """At the rates that the guide states, over 500 tables."""
    rng = np.random.default_rng(list(TRUTHS).index(truth))
    found = collections.Counter(verdict_on(rng, truth) for _ in range(500))
    assert found[TRUTHS[truth]] >= 0.9 * 500, found
    if truth != "causes":
        assert found["predicts"] <= 0.01 * 500, found


@pytest.mark.parametrize("truth", TRUTHS)
def test_the_table_has_the_verdict(truth):
    rng = np.random.default_rng(10)
    x, gap, loss = draw(rng, truth)
    runs = HYPER.assign(seed=SEED, x=x, gap=gap, train_loss=loss)
    found = analysis.evaluate(
        runs, measures=["x"], target="gap", hyper=["rate", "size"], seed="seed", converged=None
    ).table
    assert found["verdict"][0] == TRUTHS[truth]
    assert (found["verdict"][1:] == "").all()
