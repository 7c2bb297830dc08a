"""Every stated standard error is the spread over keys, and its interval covers the exact value."""

import math
from dataclasses import replace

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxsharp.measures import MEASURES, Options, Record, edges
from jaxsharp.measures.neighbourhood import sampling
from jaxsharp.measures.spectrum import densities
from tests.measures.errors.trained import (
    KEYS,
    hessian_of,
    learned,
    mean_rise,
    records,
    sigma_of,
)

pytestmark = pytest.mark.usefixtures("double_precision")

FEW, MANY = (40,), (400,)  # examples
# The defaults but for what depends on the size of a network, and of the data.
OPTIONS = Options(
    **{"radius": 1.0, "sigma": 0.1, "lpf_sigma": 0.1},
    **{"worst_examples": 32, "group_size": 4, "subspace_size": 20},
)
STATED = [name for name, of in MEASURES.items() if of.error.startswith("standard error")]
# Of what is not in the tests below, where it is, and why.
ELSEWHERE = {
    "minimum_sharpness": "tests/measures/test_sampling.py, of samples, which are of 256 examples",
    **dict.fromkeys(densities.MEASURES, "tests/measures/test_spectrum.py, beside their steps"),
}
ASKED = [n for n in STATED if n not in ELSEWHERE and "measure_rtol" in MEASURES[n].options]
EDGES = [
    name
    for name, fn in vars(edges).items()
    if "stderr" in getattr(getattr(fn, "__annotations__", {}).get("return"), "_fields", ())
]
DRAWS = {
    "random_perturbation": ("sphere", OPTIONS.radius),
    "random_perturbation_bn": ("sphere", OPTIONS.radius),
    "study_b_sharpness": ("sphere", 5.0),
    "lpf": ("gaussian", OPTIONS.lpf_sigma, True),
    "gaussian_perturbation": ("gaussian", OPTIONS.sigma),
    "adaptive_perturbation": ("adaptive", OPTIONS.sigma_relative),
    "filter_perturbation": ("filter_normalized", OPTIONS.sigma_relative),
}
# At which a measure takes more than the fewest, and not thousands; of others 0.12.
RTOLS = {
    **{"lpf": 0.02, "hutchinson_trace": 0.06, "frobenius_norm": 0.06},
    **{name: 0.05 for name, of in MEASURES.items() if "group_size" in of.options},
    **{"keskar_subspace_sharpness": 0.03, "epsilon_sharpness_random": 0.03},
}
SIGMAS = {"pacbayes_sigma": "gaussian", "pacbayes_sigma_magnitude": "adaptive"}


def truth(name, task_of):
    """By a dense matrix or many draws in a plain loop; None: the mean of independent terms."""
    if name in DRAWS:
        return mean_rise(task_of, *DRAWS[name])
    if name in SIGMAS:
        return sigma_of(task_of, SIGMAS[name], OPTIONS.rise)
    if name == "pacbayes_bound":
        at = learned(*task_of).at
        moved = ravel_pytree(at.params)[0] - ravel_pytree(at.initial)[0]
        sigma = sigma_of(task_of, "gaussian", OPTIONS.rise)
        return moved @ moved / (4 * sigma**2) + math.log(task_of[0] / OPTIONS.delta)
    of_hessian = {"hutchinson_trace": np.trace, "frobenius_norm": np.linalg.norm}
    return of_hessian[name](hessian_of(task_of)) if name in of_hessian else None


def check(found, of, options, want):
    """The error is the spread, the interval covers, and no bias is more than half an error."""
    values, errors = (np.array([getattr(one, of) for one in found]) for of in ("value", "error"))
    want = values.mean() if want is None else want
    ends = np.array([of.interval(one, options) for one in found])
    ratio = np.sqrt(np.mean(errors**2)) / values.std(ddof=1)
    covered = np.mean((ends[:, 0] <= want) & (want <= ends[:, 1]))
    bias = (values.mean() - want) / errors.mean()
    said = f"ratio {ratio:.3f}, covered {covered:.3f}, bias {bias:+.3f} of an error"
    assert 0.85 < ratio < 1.15 and 0.90 <= covered <= 0.98 and abs(bias) < 0.5, said


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in STATED if name not in ELSEWHERE])
def test_the_standard_error_is_the_spread_over_keys(name):
    """With the default numbers of draws, probes, subspaces and groups."""
    of = MEASURES[name]
    task_of = MANY if "group_size" in of.options else FEW
    found = records(name, task_of, OPTIONS)
    assert all(one.finished and not one.exact for one in found)
    check(found, of, OPTIONS, truth(name, task_of))


@pytest.mark.slow
@pytest.mark.parametrize("name", ASKED)
def test_the_error_that_was_asked_for_is_the_spread_over_keys(name, monkeypatch):
    """Where the error is what stops, and is of few examples as well as of directions."""
    monkeypatch.setattr(sampling, "BLOCK", 12)
    rtol = RTOLS.get(name, 0.12)
    options = replace(OPTIONS, measure_rtol=rtol)
    task_of = MANY if "group_size" in MEASURES[name].options else FEW
    found = records(name, task_of, options)
    assert len({one.directions for one in found}) > 1, "all stopped at the fewest"
    assert all(one.finished and one.error <= 1.001 * rtol * one.value for one in found)
    check(found, MEASURES[name], options, truth(name, task_of))


@pytest.mark.slow
@pytest.mark.parametrize("name", EDGES)
def test_the_standard_error_of_what_is_followed_is_the_spread_over_keys(name):
    """With the defaults, where the error is what stops."""
    network, (params, stats, _), batch = learned(*MANY)

    def found(key, **options):
        loss = network.frozen_loss(stats)
        return getattr(edges, name)(loss, params, batch, key=key, batch_size=16, **options)

    keys = jax.random.split(jax.random.key(0), KEYS)
    each = jax.device_get(jax.jit(jax.vmap(found))(keys))
    assert each.converged.all() and len(np.unique(each.num_batches)) > 1
    assert (each.stderr <= 0.05 * each.mean).all()
    exact = jax.jit(lambda key: found(key, rtol=0.0, max_batches=6000))(jax.random.key(1)).mean
    rows = zip(each.mean, each.stderr, each.num_batches, strict=True)
    numbers = [Record(mean, error, True, 0, 0, int(num), False) for mean, error, num in rows]
    check(numbers, MEASURES["hutchinson_trace"], OPTIONS, float(exact))
