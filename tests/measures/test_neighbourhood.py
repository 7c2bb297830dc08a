"""Random perturbations: the limit of small radii, standard errors, BatchNorm, chunks."""

from functools import partial

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxsharp.core.keys import stream
from jaxsharp.core.trees import random_direction
from jaxsharp.measures import random_perturbation
from jaxsharp.measures.neighbourhood import loss_increases
from jaxsharp.networks import frozen_loss
from tests.references import dot_precisions
from tests.tinynets import cnn, generic_point, mlp, tiny_dataset


def setting(network, shape=(6, 6, 2), num=13):
    return (network, *generic_point(network), tiny_dataset(num=num, shape=shape).train)


def test_small_radii_give_the_trace(x64):
    network, params, stats, batch = setting(mlp(features=12), shape=(2, 3, 2))
    flat, unflatten = ravel_pytree(params)
    loss = frozen_loss(network.apply, stats)
    hessian = jax.jit(jax.hessian(lambda f: loss(unflatten(f), batch)))(flat)
    radius, num = 1e-4, 400
    gradient = jax.grad(lambda f: loss(unflatten(f), batch))(flat)
    found = random_perturbation(
        *(network, params, stats, batch, jax.random.key(0)), radius=radius, num_perturbations=num
    )
    # The linear term has mean zero and the spread r |g| / sqrt(P).
    np.testing.assert_allclose(
        found.error, radius * np.linalg.norm(gradient) / np.sqrt(flat.size * num), rtol=0.15
    )
    want = radius**2 * np.trace(hessian) / (2 * flat.size)
    assert abs(found.value - want) < 5 * found.error
    # Antithetic pairs cancel the linear term, and what is left is r^2 u'Hu / 2.
    keys = jax.random.split(jax.random.key(1), num)
    draw = jax.jit(jax.vmap(lambda key: ravel_pytree(random_direction(key, params))[0]))
    directions = draw(keys)
    quadratic = np.einsum("ip,pq,iq->i", directions, hessian, directions) / 2
    error = np.std(quadratic, ddof=1) / np.sqrt(num)
    assert abs(np.mean(quadratic) - np.trace(hessian) / (2 * flat.size)) < 5 * error


def test_increases_are_losses_at_distance_radius(x64):
    network, params, stats, batch = setting(cnn())
    loss = frozen_loss(network.apply, stats)
    found = random_perturbation(
        *(network, params, stats, batch, jax.random.key(3)), radius=2.0, num_perturbations=5
    )
    want = []
    drawn = stream(jax.random.key(3), "random_perturbation")
    for i in range(5):
        direction = random_direction(jax.random.fold_in(drawn, i), params)
        moved = jax.tree.map(lambda p, d: p + 2.0 * d, params, direction)
        step = ravel_pytree(moved)[0] - ravel_pytree(params)[0]
        np.testing.assert_allclose(np.linalg.norm(step), 2.0, rtol=1e-12)
        want.append(float(loss(moved, batch) - loss(params, batch)))
    np.testing.assert_allclose(found.increases, want, rtol=1e-9)
    np.testing.assert_allclose(found.value, np.mean(want), rtol=1e-9)
    np.testing.assert_allclose(found.error, np.std(want, ddof=1) / np.sqrt(5), rtol=1e-9)


@pytest.mark.parametrize(("chunk_size", "vmapped"), [(13, 1), (4, 3), (5, 7), (1, 2)])
@pytest.mark.parametrize("recompute", [False, True])
def test_chunks_do_not_change_the_increases(x64, chunk_size, vmapped, recompute):
    network, params, stats, batch = setting(cnn())
    found = [
        random_perturbation(
            *(network, params, stats, batch, jax.random.key(0)),
            num_perturbations=7,
            recompute=recompute,
            chunk_size=c,
            vmapped=v,
        )
        for c, v in ((13, 1), (chunk_size, vmapped))
    ]
    np.testing.assert_allclose(found[1].increases, found[0].increases, rtol=1e-8, atol=1e-10)


def test_recomputed_statistics_are_those_of_each_point(x64):
    """In training mode the whole set as one batch is normalized by its own statistics."""
    network, params, stats, batch = setting(cnn())

    def loss(params):
        logits, _ = network.apply(params, stats, batch.images, True)
        return -np.mean(np.asarray(jax.nn.log_softmax(logits))[np.arange(13), batch.labels])

    drawn = stream(jax.random.key(0), "random_perturbation")
    direction = random_direction(jax.random.fold_in(drawn, 0), params)
    moved = jax.tree.map(lambda p, d: p + 5.0 * d, params, direction)
    arguments = (network, params, stats, batch, jax.random.key(0))
    found = random_perturbation(*arguments, num_perturbations=2, recompute=True, chunk_size=4)
    np.testing.assert_allclose(found.increases[0], loss(moved) - loss(params), rtol=1e-8)
    frozen = random_perturbation(*arguments, num_perturbations=2)
    assert abs(frozen.increases[0] - found.increases[0]) > 1e-2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"radius": 0.0}, "radius is 0.0"), ({"num_perturbations": 1}, "num_perturbations is 1")],
)
def test_bad_settings_are_named(x64, arguments, message):
    network, params, stats, batch = setting(mlp())
    with pytest.raises(ValueError, match=message):
        random_perturbation(network, params, stats, batch, jax.random.key(0), **arguments)


def test_every_matrix_product_runs_at_highest_precision(x64):
    network, params, stats, batch = setting(cnn())
    increases = partial(loss_increases, network, 3, True, 4, 1)
    with jax.default_matmul_precision("default"):
        jaxpr = jax.make_jaxpr(increases)(params, stats, batch, jax.random.key(0), 1.0).jaxpr
    precisions = dot_precisions(jaxpr)
    assert len(precisions) >= 8
    assert set(precisions) == {(jax.lax.Precision.HIGHEST,) * 2}
