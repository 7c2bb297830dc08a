"""Random directions: what a standard deviation and a filter are, and which rises they give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxsharp.core import budget
from jaxsharp.measures import MEASURES, Options, Trained, directions, random_perturbation
from tests.references import dense_hessian
from tests.tinynets import cnn, generic_point, mlp, tiny_dataset

DRAWS = ["sphere", "gaussian", "adaptive", "filter_normalized"]
pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.fixture(scope="module")
def setting(double_precision):
    network = mlp(features=12)
    return network, *generic_point(network), tiny_dataset(num=13, shape=(2, 3, 2)).train


def draws(name, params, num=4000):
    draw = getattr(directions, name)
    keys = jax.random.split(jax.random.key(0), num)
    return jax.vmap(lambda key: draw(key, params))(keys)


def second_moments(name, params):
    """E[d_i^2] of a direction, from its formula."""
    if name == "sphere":
        size = ravel_pytree(params)[0].size
        return jax.tree.map(lambda a: np.full(a.shape, 1 / size), params)
    if name == "gaussian":
        return jax.tree.map(np.ones_like, params)
    if name == "adaptive":
        return jax.tree.map(np.square, params)

    def of_filters(a):  # ||theta_f||^2 / n_f of a column
        if a.ndim < 2:
            return np.zeros(a.shape)
        rows = np.asarray(a).reshape(-1, a.shape[-1])
        return np.broadcast_to(np.square(rows).mean(0), a.shape)

    return jax.tree.map(of_filters, params)


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAWS)
def test_entries_have_the_moments_of_their_formula(setting, name):
    """A standard deviation of each coordinate, and neither a variance nor a norm (pitfall 22)."""
    params = setting[1]
    found, want = draws(name, params), second_moments(name, params)
    for got, moment in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        spread = np.sqrt(2 / len(got))  # relative, of the mean of squares of normal numbers
        np.testing.assert_allclose(np.square(got).mean(0), moment, rtol=6 * spread)
        assert np.all(np.abs(np.mean(got, 0)) <= 6 * np.sqrt(moment / len(got)))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "axis"), [("kernel", 3), ("weight", 0), ("embedding", 0)])
def test_filters_are_those_of_output_units(name, axis):
    rng = np.random.default_rng(0)
    params = {"conv": {name: jnp.asarray(rng.normal(size=(3, 2, 2, 5))), "bias": jnp.ones(5)}}
    drawn = directions.filter_normalized(jax.random.key(1), params)["conv"]
    others = tuple(i for i in range(4) if i != axis)
    norms = [np.sqrt(np.square(a).sum(others)) for a in (drawn[name], params["conv"][name])]
    np.testing.assert_allclose(*norms, rtol=1e-12)
    assert not np.any(drawn["bias"])


@pytest.mark.parametrize(
    ("name", "shape"),
    [("bias", (5, 1, 1)), ("bias", (2, 3)), ("b", (1, 5)), ("scale", (1, 1, 5)), ("beta", (5, 1))],
)
def test_a_bias_of_several_axes_is_not_moved(name, shape):
    """As those of Equinox's convolutions, (channels, 1, 1), and of Flax's attention."""
    params = {"layer": {name: np.ones(shape), "kernel": np.ones((3, 1))}}
    drawn = directions.filter_normalized(jax.random.key(1), params)["layer"]
    assert not np.any(drawn[name]) and np.all(drawn["kernel"])


@pytest.mark.parametrize(
    ("others", "bias", "columns"),
    [
        (("key", "value"), (4, 5), 20),
        (("key", "value"), None, 20),
        (("key", "value"), (5,), 5),
        (("key",), None, 5),
        ((), None, 5),
    ],
)
def test_filters_of_attention_in_flax_are_those_of_a_head_and_a_place(others, bias, columns):
    """And of no convolution over one axis, which has as many and may have the name of a part."""
    kernel = np.random.default_rng(0).normal(size=(3, 4, 5))
    part = {"kernel": kernel} | ({} if bias is None else {"bias": np.ones(bias)})
    params = {"layer": dict.fromkeys(("query", *others), part)}
    drawn = directions.filter_normalized(jax.random.key(1), params)["layer"]["query"]["kernel"]
    norms = [np.linalg.norm(np.reshape(a, (-1, columns)), axis=0) for a in (drawn, kernel)]
    np.testing.assert_allclose(*norms, rtol=1e-12)


@pytest.mark.slow
def test_a_filter_of_zeros_is_not_moved():
    params = {"kernel": jnp.zeros((3, 2)).at[:, 1].set(2.0)}
    drawn = directions.filter_normalized(jax.random.key(1), params)["kernel"]
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=0), [0, 2 * np.sqrt(3)])


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAWS)
def test_small_noise_gives_the_weighted_trace(setting, name):
    """s^2 sum_i E[d_i^2] H_ii / 2: the dense Hessian, and pairs that cancel the gradient."""
    network, params, stats, batch = setting
    hessian = dense_hessian(network.frozen_loss(stats), params, batch)
    moments = ravel_pytree(second_moments(name, params))[0]
    scale, draw = 1e-3, getattr(directions, name)
    found = random_perturbation(
        *setting, jax.random.key(4), radius=scale, num_perturbations=2000, draw=draw
    )
    want = scale**2 * moments @ np.diag(hessian) / 2
    assert abs(found.value - want) < 4 * found.error < 0.4 * abs(want)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "draw", "far", "level"),
    [
        ("gaussian_perturbation", "gaussian", 0.3, False),
        ("adaptive_perturbation", "adaptive", 0.2, False),
        ("filter_perturbation", "filter_normalized", 0.2, False),
        ("lpf", "gaussian", 0.05, True),
        ("study_b_sharpness", "sphere", 5.0, False),
    ],
)
def test_a_measure_is_the_mean_of_losses_in_a_plain_loop(name, draw, far, level):
    network = cnn()
    params, stats = generic_point(network)
    batch = tiny_dataset(num=12).train
    options = Options(
        num_perturbations=4, sigma=0.3, sigma_relative=0.2, lpf_sigma=0.05, lpf_draws=6
    )
    measure, at, key = MEASURES[name], Trained(params, stats), jax.random.key(7)
    arrays = measure.arrays(network, at, batch, key, options, budget())
    found = measure.record(network, at, batch, options, jax.device_get(arrays))

    @jax.jit
    def loss(params):
        training = name == "study_b_sharpness"  # the whole set as one batch
        logits = network.apply(params, stats, batch.images, training)[0]
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(12), batch.labels])

    num, pairs = {"lpf": (6, True), "study_b_sharpness": (49, False)}.get(name, (4, True))
    rises = []
    for i in range(num):
        drawn = getattr(directions, draw)(jax.random.fold_in(key, i // 2 if pairs else i), params)
        sign = -1 if pairs and i % 2 else 1
        moved = jax.tree.map(lambda p, d, s=sign: p + s * far * d, params, drawn)
        rises.append(float(loss(moved) - loss(params)))
    units = np.reshape(rises, (-1, 2)).mean(1) if pairs else np.asarray(rises)
    np.testing.assert_allclose(found.value, np.mean(rises) + level * loss(params), rtol=1e-7)
    np.testing.assert_allclose(found.error, units.std(ddof=1) / np.sqrt(len(units)), rtol=1e-6)
    assert (found.cost, found.examples, found.directions) == (num + 1, 12, num)


@pytest.mark.slow
def test_the_line_between_networks_ends_at_the_second(setting):
    start = setting[1]
    end = generic_point(setting[0], seed=3)[0]
    step = directions.between(start, end)
    jax.tree.map(lambda a, d, b: np.testing.assert_allclose(a + d, b, rtol=1e-12), start, step, end)
    with pytest.raises(ValueError, match="end has other names or shapes than start"):
        directions.between(start, generic_point(mlp())[0])
