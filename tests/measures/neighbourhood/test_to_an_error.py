"""Groups, subspaces, distances and noise to a relative error: which terms, and when they end."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.flatten_util import ravel_pytree

from jaxsharp.core import budget
from jaxsharp.core.keys import stream
from jaxsharp.measures import MEASURES, Options, Trained
from jaxsharp.measures.neighbourhood import sampling
from jaxsharp.measures.neighbourhood.sampling import subset
from jaxsharp.networks import Network

pytestmark = pytest.mark.usefixtures("double_precision")
NUM = 40
SMALL = {"group_size": 5, "ascent_steps": 3, "subspace_size": 3}
NAMES = (
    *("sam_sharpness", "pgd_linf", "keskar_subspace_sharpness"),
    *("epsilon_sharpness_random", "pacbayes_sigma", "pacbayes_sigma_magnitude"),
)


def apply(params, stats, x, train):
    return jnp.tanh(x @ params["first"]) @ params["last"], stats


@pytest.fixture(scope="module")
def setting(double_precision):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(NUM, 3)), rng.integers(0, 3, NUM)
    params = {"first": rng.normal(size=(3, 4)), "last": rng.normal(size=(4, 3))}
    network = Network(lambda key: (params, {}), apply)
    return network, jax.tree.map(jnp.asarray, params), (jnp.asarray(x), jnp.asarray(y))


def taken(name, setting, options, key=0):
    network, params, batch = setting
    at = Trained(params, {}, jax.tree.map(lambda leaf: leaf / 2, params))
    arrays = MEASURES[name].arrays(network, at, batch, jax.random.key(key), options, budget())
    return MEASURES[name].record(network, at, batch, options, jax.device_get(arrays))


@pytest.mark.slow
def test_every_subset_is_drawn_as_often():
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = np.sort(np.asarray(jax.vmap(lambda key: subset(key, 5, 3))(keys)), axis=1)
    every, counts = np.unique(drawn, axis=0, return_counts=True)
    assert every.tolist() == [list(each) for each in itertools.combinations(range(5), 3)]
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    assert sorted(np.asarray(subset(keys[0], 7, 7)).tolist()) == list(range(7))


@pytest.mark.slow
def test_groups_are_drawn_anew_from_all_examples(setting):
    """The first n of a plain loop, each with SAM's step of its own."""
    options = Options(**SMALL, measure_rtol=0.04)
    found = taken("sam_sharpness", setting, options)
    network, params, batch = setting
    flat, unflatten = ravel_pytree(params)
    key, rises = stream(jax.random.key(0), "groups"), []
    for index in range(found.directions):
        chosen = np.asarray(subset(jax.random.fold_in(key, index), NUM, 5))
        assert len(set(chosen.tolist())) == 5
        few = jax.tree.map(lambda leaf, chosen=chosen: leaf[chosen], batch)
        value = lambda at, few=few: network.frozen_loss({})(unflatten(at), few)  # noqa: E731
        slope = jax.grad(value)(flat)
        rises.append(value(flat + 0.05 * slope / jnp.linalg.norm(slope)) - value(flat))
    np.testing.assert_allclose(found.value, np.mean(rises), rtol=1e-9)
    want = np.std(rises, ddof=1) / math.sqrt(len(rises))
    np.testing.assert_allclose(found.error, want, rtol=1e-9)
    assert found.finished and 30 < len(rises) and want <= 0.04 * found.value
    assert (found.examples, found.cost) == (NUM, math.ceil(2 * 5 * len(rises) / NUM))
    assert MEASURES["sam_sharpness"].terms(found, options) == len(rises)


@pytest.mark.slow
def test_ascents_are_counted_and_groups_are_the_terms(setting):
    options = Options(**SMALL, ascent_starts=2, measure_rtol=0.5)
    found = taken("pgd_linf", setting, options)
    assert (found.directions, MEASURES["pgd_linf"].terms(found, options)) == (60, 30)
    assert found.cost == 4 * 2 * 30 * 5 // NUM


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sam_sharpness", "pgd_linf"])
def test_one_group_of_all_examples_is_what_it_is_without_an_error(setting, name):
    whole = {**SMALL, "group_size": NUM}
    asked = Options(**whole, measure_rtol=0.01)
    found, want = (taken(name, setting, options) for options in (asked, Options(**whole)))
    assert found == want and found.error == 0 and found.finished


@pytest.mark.slow
@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize("name", NAMES[3:])
def test_directions_are_those_of_a_number(setting, name, antithetic):
    """The same value, error and draws as of so many, where all examples are looked at."""
    how = {**SMALL, "antithetic": antithetic}
    found = taken(name, setting, Options(**how, measure_rtol=0.1))
    assert found.finished and found.error <= 0.1 * found.value and found.directions >= 30
    number = Options(**how, num_perturbations=found.directions)
    want = taken(name, setting, number)
    np.testing.assert_allclose(found.value, want.value, rtol=1e-9)
    np.testing.assert_allclose(found.error, want.error, rtol=1e-6)
    assert found.directions == want.directions and not found.exact
    terms = MEASURES[name].terms
    assert terms(found, Options(**how, measure_rtol=0.1)) == terms(want, number)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES[:5])
def test_an_error_that_is_not_reached_leaves_it_unfinished(setting, name, monkeypatch):
    monkeypatch.setattr(sampling, "MOST_TERMS", 32)
    for module in ("distances", "pacbayes"):
        monkeypatch.setattr(f"jaxsharp.measures.neighbourhood.{module}.MOST_TERMS", 32)
    options = Options(**SMALL, measure_rtol=0.0101)
    found = taken(name, setting, options)
    assert not found.finished and MEASURES[name].terms(found, options) == 32
    assert found.error > 0.0101 * found.value > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES[:5])
def test_a_loss_that_is_not_finite_ends_it_and_is_said(setting, name):
    network, params, batch = setting
    broken = network, jax.tree.map(lambda leaf: leaf * jnp.nan, params), batch
    with pytest.raises(ValueError, match="not finite at the parameters"):
        taken(name, broken, Options(**SMALL, measure_rtol=0.1))


@pytest.mark.slow
def test_the_bound_is_as_good_as_asked_and_shares_its_noise(setting):
    options = Options(**SMALL, measure_rtol=0.15)
    sigma, bound = (taken(name, setting, options) for name in ("pacbayes_sigma", "pacbayes_bound"))
    assert (sigma.cost, sigma.directions) == (bound.cost, bound.directions)
    assert sigma.error <= 0.075 * sigma.value and bound.error <= 0.15 * bound.value
    assert sigma.finished and bound.finished


@pytest.mark.slow
def test_directions_along_which_the_loss_does_not_rise_leave_it_unfinished(setting):
    """Of a loss that is bounded the mean is of those before the first, and has no error."""
    network, params, batch = setting

    def bounded(params, stats, x, train):
        return 0.2 * jnp.tanh(apply(params, stats, x, train)[0]), stats

    setting = Network(network.init, bounded), params, batch
    name, low = "epsilon_sharpness_random", {"rise": 0.01}
    found = taken(name, setting, Options(**low, measure_rtol=0.05))
    assert not found.finished and math.isnan(found.error) and found.directions >= 4
    want = taken(name, setting, Options(**low, num_perturbations=found.directions))
    assert want.finished and math.isclose(found.value, want.value, rel_tol=1e-9)
    one_more = Options(**low, num_perturbations=found.directions + 2)
    assert not taken(name, setting, one_more).finished
    with pytest.raises(ValueError, match="does not rise by 3 along"):
        taken(name, setting, Options(rise=3.0, measure_rtol=0.05))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_members_side_by_side_have_what_each_has_alone(setting, name):
    """One that has reached its error stays as it is while others go on."""
    network, params, batch = setting
    rtol = 0.04 if name in NAMES[:4] else 0.1
    options = Options(**SMALL, measure_rtol=rtol)
    several = jax.tree.map(lambda leaf: jnp.stack([leaf, 3 * leaf, 0.3 * leaf]), params)
    keys = jax.random.split(jax.random.key(1), 3)

    def arrays(params, key):
        return MEASURES[name].arrays(network, Trained(params, {}), batch, key, options, budget())

    together, counts = jax.device_get(jax.jit(jax.vmap(arrays))(several, keys)), set()
    for i in range(3):
        params, found = (jax.tree.map(lambda x, i=i: x[i], tree) for tree in (several, together))
        at, own = Trained(params, {}), jax.device_get(jax.jit(arrays)(params, keys[i]))
        one, alone = (
            MEASURES[name].record(network, at, batch, options, each) for each in (found, own)
        )
        np.testing.assert_allclose(one[:2], alone[:2], rtol=1e-6)
        assert one[2:] == alone[2:]
        counts.add(one.directions)
    assert len(counts) > 1
