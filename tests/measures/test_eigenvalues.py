"""The top eigenvalue of real networks against dense Hessians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxsharp.measures import top_eigenvalue
from jaxsharp.measures.spectrum import eigenvalues
from tests.tinynets import cnn, generic_point, mlp, tiny_dataset

NETWORKS = {"mlp": (mlp(features=12, widths=(5, 4)), (2, 3, 2)), "cnn": (cnn(), (6, 6, 2))}


def dense_eigenvalues(network, params, stats, batch):
    flat, unflatten = ravel_pytree(params)
    loss = network.frozen_loss(stats)
    return jnp.linalg.eigvalsh(jax.jit(jax.hessian(lambda f: loss(unflatten(f), batch)))(flat))


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


BULK = np.r_[np.linspace(0.995, 1.005, 1999), 1.1].astype(np.float32)


def found_in_bulk(starts, tol=1e-2, num=300):
    """What starts from some random keys find of 1,999 eigenvalues near 1 and one of 1.1."""
    like = jnp.zeros(len(BULK))

    @jax.jit
    def from_key(key):
        options = {"tol": tol, "max_products": 100, "starts": starts}
        return eigenvalues.largest(lambda v: BULK * v, like, key, **options)

    keys = jax.random.split(jax.random.key(0), num)
    found = jax.device_get(jax.lax.map(from_key, keys))
    return [eigenvalues.from_starts(jax.tree.map(lambda x, i=i: x[i], found)) for i in range(num)]


@pytest.mark.slow
def test_a_residual_vouches_for_an_eigenvalue_nearby_and_not_for_the_largest():
    single = found_in_bulk(1)
    second = [f for f in single if f.value < 1.05]
    assert 0.02 * len(single) < len(second) < 0.12 * len(single)
    for f in second:
        assert f.converged and f.finished and f.confirmed is None
        assert np.abs(BULK - f.value).min() <= f.error <= 1e-2 * f.value


@pytest.mark.slow
def test_a_second_start_finds_what_the_first_missed_or_says_so():
    """Both miss it in one key of 220; where one does, the larger is taken and not confirmed."""
    single, double = found_in_bulk(1), found_in_bulk(2)
    disagree = 0
    for one, two in zip(single, double, strict=True):
        assert two.converged and two.num_products > one.num_products
        if one.value < 1.05 < two.value:
            disagree += 1
            assert two.confirmed is False and not two.finished
        if two.confirmed:
            assert two.finished
    assert disagree >= 5
    missed = [two for two in double if two.value < 1.05]
    assert len(missed) <= 5 and all(two.confirmed for two in missed)
    assert np.mean([two.confirmed for two in double]) > 0.8


@pytest.mark.slow
def test_of_three_starts_two_must_agree():
    three = found_in_bulk(3)
    confirmed = np.mean([f.confirmed for f in three])
    assert confirmed > np.mean([f.confirmed for f in found_in_bulk(2)])
    assert sum(f.value < 1.05 for f in three if f.confirmed) <= 2


def starts_that_found(values, residuals, converged):
    arrays = (np.array(x) for x in (values, residuals, converged, [10] * len(values)))
    return eigenvalues.from_starts(eigenvalues.Found(*arrays))


def test_what_confirms_a_value():
    near, far = [1.0, 1.015], [1.0, 1.03]
    assert starts_that_found(near, [0.01, 0.01], [True, True]).confirmed
    assert not starts_that_found(far, [0.01, 0.01], [True, True]).confirmed
    assert not starts_that_found(near, [0.01, 0.01], [False, True]).confirmed
    assert not starts_that_found(near, [0.01, 0.01], [True, False]).confirmed
    assert starts_that_found([1.0, 2.0, 2.0], [0.01] * 3, [True] * 3).confirmed
    found = starts_that_found(far, [0.01, 0.02], [True, True])
    assert (found.value, found.error, found.converged, found.num_products) == (1.03, 0.02, True, 20)
    alone = starts_that_found([1.0], [0.01], [False])
    assert alone.confirmed is None and not alone.finished


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_starts_of_a_network_agree_on_the_largest(x64, name):
    network, shape = NETWORKS[name]
    batch = tiny_dataset(num=14, shape=shape).train
    params, stats = generic_point(network)
    arguments = (network, params, stats, batch, jax.random.key(0))
    one, two = (top_eigenvalue(*arguments, tol=1e-6, starts=starts) for starts in (1, 2))
    assert two.confirmed and two.finished and two.num_products > one.num_products
    np.testing.assert_allclose(two.value, one.value, rtol=1e-9)
    with pytest.raises(ValueError, match="starts is 0; it must be at least 1"):
        top_eigenvalue(*arguments, starts=0)
