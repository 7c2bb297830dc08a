"""Crossings, and the distances and sigmas that are found by them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from jax.flatten_util import ravel_pytree

from jaxsharp.core import budget
from jaxsharp.measures import MEASURES, Options, Trained, directions
from jaxsharp.measures.neighbourhood.crossings import Crossing, crossing
from jaxsharp.measures.neighbourhood.pacbayes import Sigma, sigma_of_rise
from tests.tinynets import generic_point, mlp, tiny_dataset

pytestmark = pytest.mark.usefixtures("double_precision")
OPTIONS = Options(num_perturbations=8, rise=0.2)
ROUNDING = 1e-3  # the width of a bracket, relative


@pytest.fixture(scope="module")
def setting(double_precision):
    network = mlp(features=12)
    batch = tiny_dataset(num=13, shape=(2, 3, 2)).train
    initial = generic_point(network, seed=1)[0]
    return network, Trained(*generic_point(network), initial), batch


def taken(name, setting, options=OPTIONS):
    network, at, batch = setting
    arrays = MEASURES[name].arrays(network, at, batch, jax.random.key(3), options, budget())
    return MEASURES[name].record(network, at, batch, options, jax.device_get(arrays))


@pytest.mark.parametrize(
    ("rise", "want"),
    [
        (lambda t: t**2, math.sqrt(0.3)),
        (lambda t: 1e-9 * t, 0.3e9),
        (lambda t: jnp.expm1(1e5 * t), math.log(1.3) / 1e5),
        (lambda t: jnp.where(t < 5.0, 0.0, jnp.nan), 5.0),  # what is not finite is above
        (lambda t: jnp.where(t < 0.01, t, jnp.inf), 0.01),
    ],
)
def test_a_crossing_is_where_the_function_crosses(rise, want):
    found = jax.jit(lambda like: crossing(rise, 0.3, like))(jnp.zeros(()))
    assert found.found
    np.testing.assert_allclose(found.value, want, rtol=ROUNDING)
    assert abs(found.value - want) <= found.width * (1 + 1e-9) < ROUNDING * want


@pytest.mark.parametrize("rise", [lambda t: 0 * t, lambda t: t * jnp.nan, lambda t: -t])
def test_what_never_crosses_is_not_found(rise):
    assert not crossing(rise, 0.3, jnp.zeros(())).found


@pytest.mark.slow
def test_vmapped_crossings_are_the_serial_ones():
    slopes = jnp.array([1e-3, 0.3, 1.0, 7e4])
    together = jax.vmap(lambda s: crossing(lambda t: s * t, 0.3, s))(slopes)
    for i, slope in enumerate(slopes):
        alone = crossing(lambda t, s=slope: s * t, 0.3, slope)
        np.testing.assert_allclose(together.value[i], alone.value, rtol=1e-12)
        assert together.calls[i] == alone.calls


def root(rise, target):
    """The first crossing on a fine grid, refined on the host."""
    grid = np.geomspace(1e-4, 1e3, 400)
    first = next(i for i, t in enumerate(grid) if rise(t) >= target)
    return scipy.optimize.brentq(lambda t: rise(t) - target, grid[first - 1], grid[first])


def loss_at(setting):
    network, at, batch = setting
    flat, unflatten = ravel_pytree(at.params)
    loss = jax.jit(lambda v: network.frozen_loss(at.stats)(unflatten(v), batch))
    return flat, loss


@pytest.mark.slow
def test_distances_are_roots_along_the_gradient_and_random_directions(setting):
    flat, loss = loss_at(setting)
    gradient = jax.grad(loss)(flat)
    unit, base = gradient / jnp.linalg.norm(gradient), loss(flat)
    along = taken("epsilon_sharpness", setting)
    want = root(lambda t: loss(flat + t * unit) - base, 0.2)
    assert abs(along.value - want) <= along.error < ROUNDING * want and along.exact
    wants = []
    for i in range(4):
        drawn = directions.sphere(jax.random.fold_in(jax.random.key(3), i), setting[1].params)
        unit = ravel_pytree(drawn)[0]
        wants += [root(lambda t, d=s * unit: loss(flat + t * d) - base, 0.2) for s in (1, -1)]
    mean = taken("epsilon_sharpness_random", setting)
    pairs = np.reshape(wants, (4, 2)).mean(1)
    np.testing.assert_allclose(mean.value, np.mean(wants), rtol=ROUNDING)
    np.testing.assert_allclose(mean.error, pairs.std(ddof=1) / 2, rtol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "draw"), [("pacbayes_sigma", "gaussian"), ("pacbayes_sigma_magnitude", "adaptive")]
)
def test_sigma_is_the_root_of_the_mean_over_the_same_draws(setting, name, draw):
    flat, loss = loss_at(setting)
    noise = np.stack(
        [
            ravel_pytree(
                getattr(directions, draw)(
                    jax.random.fold_in(jax.random.key(3), i), setting[1].params
                )
            )[0]
            for i in range(4)
        ]
    )
    losses = jax.jit(jax.vmap(loss))
    base = loss(flat)

    def rises(sigma):  # of pairs
        return np.mean([losses(flat + s * sigma * noise) - base for s in (1, -1)], 0)

    want = root(lambda sigma: rises(sigma).mean(), 0.2)
    found = taken(name, setting)
    np.testing.assert_allclose(found.value, want, rtol=ROUNDING)
    without = [root(lambda s, i=i: np.delete(rises(s), i).mean(), 0.2) for i in range(4)]
    np.testing.assert_allclose(found.error, np.sqrt(3) * np.std(without), rtol=0.08)


@pytest.mark.slow
def test_the_bound_is_that_of_its_sigma(setting):
    """Standard deviations, and not variances, enter (pitfall 22)."""
    sigma, bound = (taken(name, setting) for name in ("pacbayes_sigma", "pacbayes_bound"))
    _, at, _ = setting
    moved = ravel_pytree(at.params)[0] - ravel_pytree(at.initial)[0]
    term = np.linalg.norm(moved) ** 2 / (4 * sigma.value**2)
    np.testing.assert_allclose(bound.value, term + np.log(13 / OPTIONS.delta), rtol=1e-9)
    np.testing.assert_allclose(bound.error, 2 * term * sigma.error / sigma.value, rtol=1e-9)


@pytest.mark.slow
def test_a_sigma_within_rounding_is_not_finished(setting):
    """In float32, where steps so small are lost in the parameters, or the rise in the loss."""
    network, at, batch = setting
    static = (network, directions.gaussian, 8, True, budget())
    single = lambda factor: jax.tree.map(lambda x: (factor * x).astype(np.float32), at.params)  # noqa: E731

    def found(params, rise):
        return sigma_of_rise(*static, params, at.stats, batch, jax.random.key(3), rise)

    def record(found, rise):
        options = Options(num_perturbations=8, rise=rise)
        return MEASURES["pacbayes_sigma"].record(network, at, batch, options, found)

    fine, small, large = found(single(1), 0.2), found(single(1), 1e-6), found(single(1e3), 1e-3)
    assert record(fine, 0.2).finished
    for lost, rise in ((small, 1e-6), (large, 1e-3)):
        one = record(lost, rise)
        assert not one.finished and lost.sigma.width >= one.value
    wide = fine._replace(sigma=fine.sigma._replace(width=1.1 * fine.sigma.value))
    assert not record(wide, 0.2).finished


@pytest.mark.parametrize(
    ("rises", "slope"), [([9.0, -1.0, -1.0, -1.0], 1.0), ([1.0, 2.0, 3.0, 2.0], -1.0)]
)
def test_a_sigma_that_one_draw_decides_states_no_error(setting, rises, slope):
    """Without it the loss does not rise."""
    options = Options(num_perturbations=4, antithetic=False)
    crossed = Crossing(np.array(2.0), np.array(1e-3), np.array(True), np.array(12))
    found = Sigma(crossed, np.array(rises), np.array(slope))
    for name in ("pacbayes_sigma", "pacbayes_bound"):
        record = MEASURES[name].record(*setting, options, found)
        assert np.isfinite(record.value) and np.isnan(record.error) and not record.finished


@pytest.mark.slow
@pytest.mark.parametrize("name", ["epsilon_sharpness", "epsilon_sharpness_random"])
def test_a_loss_that_never_rises_so_far_is_named(setting, name):
    network, at, batch = setting
    constant = network._replace(apply=lambda p, s, x, train: (jnp.zeros((len(x), 3)), s))
    with pytest.raises(ValueError, match=r"does not rise by 0.2 along \d of \d directions"):
        taken(name, (constant, at, batch))


@pytest.mark.parametrize("pairs", [True, False])
def test_directions_without_a_crossing_are_left_out_and_leave_a_mean_unfinished(setting, pairs):
    measure, options = MEASURES["epsilon_sharpness_random"], Options(antithetic=pairs)
    values, has = np.arange(1.0, 9.0), np.arange(8) != 2
    all_of_them = Crossing(values, 1e-3 * values, np.ones(8, bool), np.full(8, 12))
    whole = measure.record(*setting, options, all_of_them)
    assert whole.finished and whole.value == 4.5 and whole.directions == 8
    wide = measure.record(*setting, options, all_of_them._replace(width=1.1 * values))
    assert not wide.finished and wide.error > wide.value
    some = measure.record(*setting, options, all_of_them._replace(found=has))
    kept = values[[0, 1, 4, 5, 6, 7] if pairs else has]
    assert not some.finished and some.directions == len(kept)
    np.testing.assert_allclose(some.value, kept.mean())
    with pytest.raises(ValueError, match=r"does not rise by 0\.1 along 7 of 8 directions"):
        measure.record(*setting, options, all_of_them._replace(found=np.arange(8) == 2))
