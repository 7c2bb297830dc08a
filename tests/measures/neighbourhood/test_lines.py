"""The loss along lines and over planes: plain loops, chunks, eigenvectors, and between networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxsharp.measures import directions, loss_along, loss_plane
from tests.references import dense_hessian
from tests.tinynets import cnn, generic_point, mlp, tiny_dataset

pytestmark = pytest.mark.usefixtures("double_precision")
PLACES = [-0.5, 0.0, 0.7, 1.0]


@pytest.fixture(scope="module")
def setting(double_precision):
    network = mlp(features=12)
    return network, *generic_point(network), tiny_dataset(num=13, shape=(2, 3, 2)).train


@pytest.fixture(scope="module")
def losses(setting):
    network, params, stats, batch = setting
    loss = jax.jit(network.frozen_loss(stats))

    def at(*steps):
        moved = params
        for share, direction in steps:
            moved = jax.tree.map(lambda p, d, c=share: p + c * d, moved, direction)
        return float(loss(moved, batch))

    return at


@pytest.mark.slow
def test_a_line_and_a_plane_are_plain_loops(setting, losses):
    draw = [directions.filter_normalized(jax.random.key(i), setting[1]) for i in (0, 1)]
    line = loss_along(*setting, draw[0], PLACES)
    np.testing.assert_allclose(line, [losses((t, draw[0])) for t in PLACES], rtol=1e-10)
    xs, ys = PLACES, [0.0, 0.3]
    plane = loss_plane(*setting, tuple(draw), xs, ys, chunk_size=5, vmapped=3)
    want = [[losses((x, draw[0]), (y, draw[1])) for x in xs] for y in ys]
    np.testing.assert_allclose(plane, want, rtol=1e-10)
    np.testing.assert_allclose(plane[0], line, rtol=1e-10)


@pytest.mark.slow
def test_between_networks_the_line_ends_at_the_second(setting, losses):
    end = generic_point(setting[0], seed=3)[0]
    line = loss_along(*setting, directions.between(setting[1], end), [0.0, 1.0])
    second = setting[0].frozen_loss(setting[2])(end, setting[3])
    np.testing.assert_allclose(line, [losses(), second], rtol=1e-10)


@pytest.mark.slow
def test_along_an_eigenvector_the_curvature_is_the_eigenvalue(setting):
    network, params, stats, batch = setting
    values, vectors = np.linalg.eigh(dense_hessian(network.frozen_loss(stats), params, batch))
    vector, h = ravel_pytree(params)[1](vectors[:, -1]), 1e-4
    low, middle, high = loss_along(*setting, vector, [-h, 0.0, h])
    np.testing.assert_allclose((low - 2 * middle + high) / h**2, values[-1], rtol=1e-4)


@pytest.mark.slow
def test_members_are_vmapped(setting):
    network, params, stats, batch = setting
    direction = directions.gaussian(jax.random.key(0), params)
    both = jax.tree.map(lambda a: jnp.stack([a, 1.1 * a]), params)
    found = jax.vmap(lambda p: loss_along(network, p, stats, batch, direction, PLACES))(both)
    for i in range(2):
        alone = jax.tree.map(lambda a, i=i: a[i], both)
        want = loss_along(network, alone, stats, batch, direction, PLACES)
        np.testing.assert_allclose(found[i], want, rtol=1e-10)


@pytest.mark.slow
def test_recomputed_statistics_are_those_of_each_point():
    network = cnn()
    params, stats = generic_point(network)
    batch = tiny_dataset(num=8).train
    step = directions.gaussian(jax.random.key(0), params)
    line = loss_along(network, params, stats, batch, step, [0.3], recompute=True)
    moved = jax.tree.map(lambda p, d: p + 0.3 * d, params, step)
    logits = network.apply(moved, stats, batch.images, True)[0]
    want = -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(8), batch.labels])
    np.testing.assert_allclose(line, [want], rtol=1e-9)


@pytest.mark.parametrize(
    ("other", "places", "message"),
    [
        (mlp, [0.0], "a direction has other names or shapes than params"),
        (None, np.zeros((1, 1)), r"distances have shape \(1, 1\)"),
        (None, [np.nan, 1.0], "distances have shape .2,. and 1 that are not finite"),
        (None, [], "must be one axis of finite numbers"),
    ],
)
def test_bad_lines_are_named(setting, other, places, message):
    direction = generic_point(other())[0] if other else setting[1]
    with pytest.raises(ValueError, match=message):
        loss_along(*setting, direction, places)
