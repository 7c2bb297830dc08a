"""Random perturbations: the limit of small radii, standard errors, BatchNorm, chunks."""

from functools import partial

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxsharp.core import budget
from jaxsharp.core.keys import stream
from jaxsharp.core.trees import random_direction
from jaxsharp.measures import random_perturbation
from jaxsharp.measures.neighbourhood.average import from_increases, perturbed
from tests.references import dot_precisions
from tests.tinynets import block, cnn, generic_point, mlp, tiny_dataset


def setting(network, shape=(6, 6, 2), num=13):
    return (network, *generic_point(network), tiny_dataset(num=num, shape=shape).train)


@pytest.mark.slow
def test_small_radii_give_the_trace(x64):
    network, params, stats, batch = setting(mlp(features=12), shape=(2, 3, 2))
    flat, unflatten = ravel_pytree(params)
    loss = network.frozen_loss(stats)
    hessian = jax.jit(jax.hessian(lambda f: loss(unflatten(f), batch)))(flat)
    radius, num = 1e-4, 400
    gradient = jax.grad(lambda f: loss(unflatten(f), batch))(flat)
    found = random_perturbation(
        *(network, params, stats, batch, jax.random.key(0)),
        **{"radius": radius, "num_perturbations": num, "antithetic": False},
    )
    # The linear term has mean zero and the spread r |g| / sqrt(P).
    np.testing.assert_allclose(
        found.error, radius * np.linalg.norm(gradient) / np.sqrt(flat.size * num), rtol=0.15
    )
    want = radius**2 * np.trace(hessian) / (2 * flat.size)
    assert abs(found.value - want) < 5 * found.error
    # Pairs cancel the linear term, and what is left is r^2 u'Hu / 2.
    pairs = random_perturbation(
        *(network, params, stats, batch, jax.random.key(1)), radius=1e-3, num_perturbations=2 * num
    )
    want *= 100
    spread = np.linalg.norm(hessian) * 1e-6 / (np.sqrt(2 * num) * flat.size)
    assert abs(pairs.value - want) < 5 * pairs.error
    assert pairs.error < 2 * spread < found.error


@pytest.mark.slow
def test_increases_are_losses_at_distance_radius(x64):
    network, params, stats, batch = setting(cnn())
    loss = jax.jit(network.frozen_loss(stats))
    found = random_perturbation(
        *(network, params, stats, batch, jax.random.key(3)),
        radius=2.0,
        num_perturbations=5,
        antithetic=False,
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


@pytest.mark.slow
def test_pairs_are_opposite_and_the_error_is_over_pairs(x64):
    network, params, stats, batch = setting(cnn())
    loss = jax.jit(network.frozen_loss(stats))
    found = random_perturbation(
        *(network, params, stats, batch, jax.random.key(3)), radius=0.7, num_perturbations=6
    )
    base, want = loss(params, batch), []
    for i in range(3):
        direction = random_direction(
            jax.random.fold_in(stream(jax.random.key(3), "random_perturbation"), i), params
        )
        for sign in (1, -1):
            moved = jax.tree.map(lambda p, d, s=sign: p + s * 0.7 * d, params, direction)
            want.append(float(loss(moved, batch) - base))
    np.testing.assert_allclose(found.increases, want, rtol=1e-8)
    pairs = np.reshape(want, (3, 2)).mean(1)
    np.testing.assert_allclose(found.value, pairs.mean(), rtol=1e-8)
    np.testing.assert_allclose(found.error, pairs.std(ddof=1) / np.sqrt(3), rtol=1e-8)


@pytest.mark.slow
def test_the_rounding_of_the_loss_at_the_parameters_is_in_the_error():
    """In float32 at a radius at which nothing else is seen, which no spread over draws shows."""
    network = mlp(features=12)
    for seed in range(3):
        params, stats = generic_point(network, seed, np.float32)
        batch = tiny_dataset(num=97, shape=(2, 3, 2), seed=seed).train
        arguments = network, params, stats, batch, jax.random.key(seed)
        found = random_perturbation(*arguments, radius=1e-7)
        base = network.frozen_loss(stats)(params, batch)
        assert abs(found.value) <= 2 * found.error
        assert found.error >= 2 * np.finfo(np.float32).eps * base


@pytest.mark.slow
def test_a_small_radius_is_not_all_gradient(x64):
    """Away from a minimum, at radius 0.1: pairs see the curvature, single directions only noise."""
    network, params, stats, batch = setting(mlp(features=12), shape=(2, 3, 2))
    arguments = (network, params, stats, batch, jax.random.key(2))
    pairs = random_perturbation(*arguments, radius=1e-3)
    single = random_perturbation(*arguments, radius=1e-3, antithetic=False, num_perturbations=49)
    assert pairs.error < 0.3 * abs(pairs.value) and single.error > 5 * abs(pairs.value)
    assert abs(single.value - pairs.value) < 5 * single.error


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_named(x64):
    network, params, stats, batch = setting(mlp(features=12), shape=(2, 3, 2))
    bad = jax.tree.map(lambda leaf: leaf * np.nan, params)
    arguments = (stats, batch, jax.random.key(0))
    with pytest.raises(ValueError, match="not finite at the parameters, or at all 4 perturbed"):
        random_perturbation(network, bad, *arguments, num_perturbations=4)
    with pytest.raises(ValueError, match=r"not finite at [1-9]\d* of 50 perturbed points"):
        from_increases(np.where(np.arange(50) % 7 == 0, np.inf, 1.0), True)


@pytest.mark.slow
@pytest.mark.parametrize(("chunk_size", "vmapped"), [(13, 1), (4, 3), (5, 7), (1, 2)])
@pytest.mark.parametrize("recompute", [False, True])
def test_chunks_do_not_change_the_increases(x64, chunk_size, vmapped, recompute):
    network, params, stats, batch = setting(block())
    found = [
        random_perturbation(
            *(network, params, stats, batch, jax.random.key(0)),
            num_perturbations=8,
            recompute=recompute,
            chunk_size=c,
            vmapped=v,
        )
        for c, v in ((13, 1), (chunk_size, vmapped))
    ]
    np.testing.assert_allclose(found[1].increases, found[0].increases, rtol=1e-8, atol=1e-10)


@pytest.mark.slow
def test_recomputed_statistics_are_those_of_each_point(x64):
    """In training mode the whole set as one batch is normalized by its own statistics."""
    network, params, stats, batch = setting(block())

    def loss(params):
        logits, _ = network.apply(params, stats, batch.images, True)
        return -np.mean(np.asarray(jax.nn.log_softmax(logits))[np.arange(13), batch.labels])

    drawn = stream(jax.random.key(0), "random_perturbation")
    direction = random_direction(jax.random.fold_in(drawn, 0), params)
    moved = jax.tree.map(lambda p, d: p + 5.0 * d, params, direction)
    arguments = (network, params, stats, batch, jax.random.key(0))
    found = random_perturbation(*arguments, num_perturbations=4, recompute=True, chunk_size=4)
    np.testing.assert_allclose(found.increases[0], loss(moved) - loss(params), rtol=1e-8)
    frozen = random_perturbation(*arguments, num_perturbations=4)
    assert abs(frozen.increases[0] - found.increases[0]) > 1e-2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"radius": 0.0}, "radius is 0.0"),
        ({"num_perturbations": 1, "antithetic": False}, "num_perturbations is 1; a standard error"),
        (
            {"num_perturbations": 2},
            "num_perturbations is 2; in pairs it must be even and at least 4",
        ),
        ({"num_perturbations": 49}, "num_perturbations is 49; in pairs it must be even"),
    ],
)
def test_bad_settings_are_named(x64, arguments, message):
    network, params, stats, batch = setting(mlp())
    with pytest.raises(ValueError, match=message):
        random_perturbation(network, params, stats, batch, jax.random.key(0), **arguments)


@pytest.mark.slow
def test_every_matrix_product_runs_at_highest_precision(x64):
    network, params, stats, batch = setting(cnn())
    increases = partial(perturbed, network, 4, True, True, 4, 1, budget())
    with jax.default_matmul_precision("default"):
        jaxpr = jax.make_jaxpr(increases)(params, stats, batch, jax.random.key(0), 1.0).jaxpr
    precisions = dot_precisions(jaxpr)
    assert len(precisions) >= 8
    assert set(precisions) == {(jax.lax.Precision.HIGHEST,) * 2}
