"""The top eigenvalue of real networks against dense Hessians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxsharp.measures import top_eigenvalue
from jaxsharp.networks import frozen_loss
from tests.tinynets import cnn, generic_point, mlp, tiny_dataset

NETWORKS = {"mlp": (mlp(features=12, widths=(5, 4)), (2, 3, 2)), "cnn": (cnn(), (6, 6, 2))}


def dense_eigenvalues(network, params, stats, batch):
    flat, unflatten = ravel_pytree(params)
    loss = frozen_loss(network.apply, stats)
    return jnp.linalg.eigvalsh(jax.jit(jax.hessian(lambda f: loss(unflatten(f), batch)))(flat))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("chunk_size", [None, 4])
def test_value_is_the_largest_of_the_dense_hessian(x64, name, chunk_size):
    network, shape = NETWORKS[name]
    batch = tiny_dataset(num=14, shape=shape).train
    params, stats = generic_point(network)
    want = dense_eigenvalues(network, params, stats, batch)[-1]
    found = top_eigenvalue(
        network, params, stats, batch, jax.random.key(0), tol=1e-9, chunk_size=chunk_size
    )
    assert found.converged
    np.testing.assert_allclose(found.value, want, rtol=1e-8)
    assert found.error <= 1e-9 * found.value


def test_value_changes_when_layers_are_rescaled(x64):
    network, shape = NETWORKS["mlp"]
    batch = tiny_dataset(num=14, shape=shape).train
    params, stats = generic_point(network)
    moved = {**params, "dense1": jax.tree.map(lambda a: a * 10, params["dense1"])}
    moved["dense2"] = {**params["dense2"], "kernel": params["dense2"]["kernel"] / 10}
    logits = [network.apply(p, stats, batch.images, False)[0] for p in (params, moved)]
    np.testing.assert_allclose(*logits, rtol=1e-10)
    values = [top_eigenvalue(network, p, stats, batch, jax.random.key(0)) for p in (params, moved)]
    assert abs(values[1].value / values[0].value - 1) > 0.5


def test_too_few_products_are_reported_with_an_honest_residual(x64):
    network, shape = NETWORKS["cnn"]
    batch = tiny_dataset(num=14, shape=shape).train
    params, stats = generic_point(network)
    found = top_eigenvalue(
        network, params, stats, batch, jax.random.key(0), tol=1e-9, max_products=4
    )
    assert not found.converged
    assert found.num_products <= 4
    distance = np.abs(dense_eigenvalues(network, params, stats, batch) - found.value).min()
    assert distance <= found.error
