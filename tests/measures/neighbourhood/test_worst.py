"""Worst cases of networks: groups, radii, logits; Keskar's box against L-BFGS-B."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from jax.flatten_util import ravel_pytree

from jaxsharp.core import budget
from jaxsharp.core.keys import stream
from jaxsharp.measures import MEASURES, Options, Trained, worst_case
from jaxsharp.measures.neighbourhood.ascents import Peak
from jaxsharp.measures.neighbourhood.worst import group_sizes
from jaxsharp.networks import LOSSES, Network
from jaxsharp.networks.losses import loss_of
from tests.tinynets import generic_point, mlp, tiny_dataset

pytestmark = pytest.mark.usefixtures("double_precision")
SHAPE = (2, 3, 2)


@pytest.fixture(scope="module")
def setting(double_precision):
    network = mlp(features=12)
    return network, *generic_point(network), tiny_dataset(num=13, shape=SHAPE).train


def taken(name, setting, options, network=None):
    first, params, stats, batch = setting
    network, at = network or first, Trained(params, stats)
    arrays = MEASURES[name].arrays(network, at, batch, jax.random.key(0), options, budget())
    return MEASURES[name].record(network, at, batch, options, jax.device_get(arrays))


def flat_loss(setting, normalized=False):
    network, params, stats, batch = setting
    flat, unflatten = ravel_pytree(params)

    def loss(vector, examples=slice(None)):
        logits = network.evaluate(unflatten(vector), stats, batch.images[examples])
        if normalized:
            logits -= logits.mean(1, keepdims=True)
            logits /= jnp.linalg.norm(logits, axis=1, keepdims=True)
        chosen = jax.nn.log_softmax(logits)[jnp.arange(len(logits)), batch.labels[examples]]
        return -jnp.mean(chosen)

    return flat, loss


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "norm", "adaptive", "normalized"),
    [
        ("sam_sharpness", "l2", False, False),
        ("asam_sharpness", "l2", True, False),
        ("pgd_l2", "l2", False, False),
        ("pgd_linf", "linf", False, False),
        ("apgd_l2_adaptive", "l2", True, False),
        ("apgd_linf_adaptive_normalized", "linf", True, True),
    ],
)
def test_small_balls_give_the_dual_norm_of_the_gradient(setting, name, norm, adaptive, normalized):
    """rho ||c g||_dual to first order: the ball, its radius, c and the loss are what they say."""
    flat, loss = flat_loss(setting, normalized)
    scale = np.abs(flat) if adaptive else 1.0
    gradient = scale * np.asarray(jax.grad(loss)(flat))
    dual = np.linalg.norm(gradient) if norm == "l2" else np.abs(gradient).sum()
    radius = "rho_" + norm + "_adaptive" * adaptive
    found = taken(name, setting, Options(**{radius: 1e-6}))
    np.testing.assert_allclose(found.value, 1e-6 * dual, rtol=1e-4)
    assert (found.error, found.examples, found.finished) == (0.0, 13, True)


@pytest.mark.slow
def test_groups_have_worst_cases_of_their_own(setting):
    """The mean over groups of m examples is no less than for all together, and drawn by the key."""
    flat, loss = flat_loss(setting)
    found = worst_case(
        *(*setting, jax.random.key(2)), rho=0.05, ascent="one_step", examples=9, group=4
    )
    assert len(found.rises) == 2
    order = jax.random.permutation(stream(stream(jax.random.key(2), "worst_case"), "groups"), 13)
    for rise, chosen in zip(found.rises, np.asarray(order)[:8].reshape(2, 4), strict=True):
        gradient = jax.grad(loss)(flat, chosen)
        moved = flat + 0.05 * gradient / jnp.linalg.norm(gradient)
        np.testing.assert_allclose(rise, loss(moved, chosen) - loss(flat, chosen), rtol=1e-9)
    np.testing.assert_allclose(found.value, found.rises.mean())
    np.testing.assert_allclose(found.error, found.rises.std(ddof=1) / np.sqrt(2))
    whole = worst_case(*setting, jax.random.key(2), rho=0.05)
    singles = worst_case(*setting, jax.random.key(2), rho=0.05, group=1)
    assert singles.value > whole.value > 0 and len(whole.rises) == 1 and len(singles.rises) == 13


@pytest.mark.parametrize(
    ("group", "examples", "error"), [(8, 8, np.nan), (13, 13, 0.0), (128, 5, np.nan)]
)
def test_one_group_of_a_part_of_the_examples_states_no_error(setting, group, examples, error):
    network, params, stats, batch = setting
    options = Options(worst_examples=examples, group_size=group)
    arguments = network, Trained(params, stats), batch, options, np.array([0.3])
    record = MEASURES["sam_sharpness"].record(*arguments)
    assert (record.value, record.examples) == (0.3, examples)
    np.testing.assert_equal(record.error, error)


@pytest.mark.parametrize(
    ("examples", "group", "size"),
    [(3, 4, (1, 3)), (8, 4, (2, 4)), (20, 4, (3, 4)), (20, 128, (1, 13)), (5, 128, (1, 5))],
)
def test_no_more_examples_are_taken_than_asked_for(examples, group, size):
    """Of the 13 there are; fewer than a group are one."""
    assert group_sizes(13, examples, group) == size


@pytest.mark.slow
def test_equal_logits_can_be_normalized():
    """A norm at zero has no NaN for a gradient (pitfall 8)."""
    network = Network(
        lambda key: ({"w": jnp.zeros((4, 3))}, {}), lambda p, s, x, train: (x @ p["w"], s)
    )
    batch = np.eye(4), np.array([0, 1, 2, 0])
    found = worst_case(
        *(network, {"w": jnp.zeros((4, 3))}, {}, batch, jax.random.key(0)),
        **{"rho": 0.1, "starts": 2, "normalize_logits": True},
    )
    assert found.value > 0.1


@pytest.mark.slow
def test_keskars_box_is_searched_as_well_as_by_lbfgsb(setting):
    """The paper's optimizer from scipy, with many more iterations, is the reference."""
    flat, loss = flat_loss(setting)
    value_and_grad = jax.jit(jax.value_and_grad(loss))
    for eps, near in ((1e-3, 1e-3), (0.05, 1e-2)):
        half = eps * (np.abs(np.asarray(flat)) + 1)

        def negative(vector):
            value, gradient = value_and_grad(vector)
            return -float(value), -np.asarray(gradient)

        bounds = np.stack([flat - half, flat + half], axis=1)
        best = scipy.optimize.minimize(
            negative, np.asarray(flat), jac=True, bounds=bounds, method="L-BFGS-B"
        )
        want = 100 * (-best.fun - loss(flat)) / (1 + loss(flat))
        found = taken("keskar_sharpness", setting, Options(box_eps=eps))
        assert want * (1 - near) < found.value < want * 1.2
        assert 0 <= found.error < 0.1 * found.value


@pytest.mark.parametrize("starts", [-1.0, [-3.0, -2.5]])
def test_no_rise_is_relative_to_a_loss_of_minus_one_or_less(setting, starts):
    """As a density's may be: the quotient would be infinite, or have the other sign."""
    values = np.asarray(starts)
    name = f"keskar_{'subspace_' * values.ndim}sharpness"
    peak, at = Peak(values + 0.1, values, 0 * values), Trained(*setting[1:3])
    with pytest.raises(ValueError, match=r"the loss is -\d at the parameters; it must be above"):
        MEASURES[name].record(setting[0], at, setting[3], Options(subspaces=2), peak)


@pytest.mark.slow
@pytest.mark.parametrize("rtol", [None, 0.5])
def test_a_loss_far_below_zero_has_no_relative_rise(setting, rtol):
    network = setting[0]._replace(loss=loss_of(far_below))
    with pytest.raises(ValueError, match="-1"):
        options = Options(measure_rtol=rtol, subspace_size=2, subspaces=2, ascent_steps=2)
        taken("keskar_subspace_sharpness", setting, options, network)


def far_below(outputs, targets):
    return jnp.sum(outputs**2, 1) - 50


@pytest.mark.slow
def test_keskars_subspace_is_a_box_of_coordinates(setting):
    """Small boxes: 100 eps sum_i |(A'g)_i| (|(A^+ theta)_i| + 1) / (1 + L), A from the keys."""
    flat, loss = flat_loss(setting)
    gradient, wants = jax.grad(loss)(flat), []
    for key in jax.random.split(jax.random.key(0), 3):
        keys = jax.random.split(stream(key, "basis"), 4)
        columns = [random_like(k, setting[1]) for k in keys]
        basis = np.stack([ravel_pytree(c)[0] for c in columns], axis=1)
        scale = np.abs(np.linalg.pinv(basis) @ flat) + 1
        wants.append(100 * 1e-7 * np.abs(basis.T @ gradient) @ scale / (1 + loss(flat)))
    options = Options(box_eps=1e-7, subspace_size=4, subspaces=3)
    found = taken("keskar_subspace_sharpness", setting, options)
    np.testing.assert_allclose(found.value, np.mean(wants), rtol=1e-4)
    np.testing.assert_allclose(found.error, np.std(wants, ddof=1) / np.sqrt(3), rtol=1e-4)
    with pytest.raises(ValueError, match="subspace_size is 1000; it must be at most 104, the para"):
        taken("keskar_subspace_sharpness", setting, Options(subspace_size=1000))


def random_like(key, tree):
    """Normal numbers, a key for every leaf, as `optax.tree.random_like` draws them."""
    leaves, treedef = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    drawn = [jax.random.normal(k, a.shape, a.dtype) for k, a in zip(keys, leaves, strict=True)]
    return treedef.unflatten(drawn)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rho": 0.0}, "rho is 0.0; it must be a finite number above 0"),
        ({"rho": 1.0, "norm": "l3"}, "unknown norm 'l3'; valid are l2, linf"),
        ({"rho": 1.0, "ascent": "pdg"}, "unknown ascent 'pdg'; valid are"),
        ({"rho": 1.0, "steps": 0}, "steps is 0; it must be at least 1"),
        ({"rho": 1.0, "group": 0}, "group is 0; it must be at least 1"),
    ],
)
def test_bad_settings_are_named(setting, arguments, message):
    with pytest.raises(ValueError, match=message):
        worst_case(*setting, jax.random.key(0), **arguments)


def test_logits_of_another_loss_are_not_normalized(setting):
    network = setting[0]._replace(loss=LOSSES["squared_error"])
    with pytest.raises(ValueError, match="normalized for cross_entropy; the loss is squared_error"):
        taken("apgd_l2_adaptive_normalized", setting, Options(), network)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rho_linf": 0.0}, "rho_linf is 0.0; it must be a finite number above 0"),
        ({"ascent_steps": 0}, "ascent_steps is 0; it must be at least 1"),
        ({"lpf_draws": 5}, "lpf_draws is 5; in pairs it must be even and at least 4"),
        ({"subspaces": 1}, "subspaces is 1; it must be from 2 to"),
        ({"delta": 1.0}, "delta is 1.0; it must lie between 0 and 1"),
    ],
)
def test_options_that_no_measure_can_take_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Options(**options).check()
