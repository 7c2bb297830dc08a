"""The top eigenpair by a matrix nearby, against NumPy's of the dense matrix."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsharp import core, curvature
from jaxsharp.measures.spectrum import samples
from jaxsharp.measures.spectrum.samples import top_by_sample

pytestmark = pytest.mark.usefixtures("x64")
SIZE = 60
TOP = np.array([10.0, 7.0, 5.0])


def operator(matrix, scale=1.0):
    """The product with a matrix, of vectors in two pieces."""

    def product(vector):
        image = scale * (matrix @ jnp.concatenate([vector["a"], vector["b"][0]]))
        return {"a": image[:-2], "b": image[None, -2:]}

    return product


@partial(jax.jit, static_argnames=("tol", "max_products", "rivals"))
def found_by(matrix, near, key, *, tol=1e-6, **options):
    like = {"a": jnp.zeros(len(matrix) - 2), "b": jnp.zeros((1, 2))}
    return top_by_sample(operator(matrix), operator(near), like, key, tol=tol, **options)


def flat(vector):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(vector)])


@pytest.fixture(scope="module")
def basis():
    return np.linalg.qr(np.random.default_rng(0).normal(size=(SIZE, SIZE)))[0]


@pytest.fixture(scope="module")
def matrix(basis):
    values = np.concatenate([TOP, np.random.default_rng(1).uniform(-1, 2, SIZE - 3)])
    return basis * values @ basis.T


def noise(size, seed=2):
    """A symmetric matrix of this norm."""
    drawn = np.random.default_rng(seed).normal(size=(SIZE, SIZE))
    return size * (drawn + drawn.T) / np.linalg.norm(drawn + drawn.T, 2)


def check(found, matrix, tol):
    vector = flat(found.vector)
    np.testing.assert_allclose(np.linalg.norm(vector), 1, rtol=1e-9)
    left = np.linalg.norm(matrix @ vector - found.value * vector)
    np.testing.assert_allclose(found.residual, left, rtol=1e-4, atol=1e-13)
    assert found.converged == (found.residual <= tol * abs(found.value))
    off = abs(found.value - np.linalg.eigvalsh(matrix)[-1])
    assert off <= found.residual + 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("tol", [1e-1, 1e-2, 1e-6])
@pytest.mark.parametrize("size", [0.0, 0.1, 1.0, 5.0])
def test_the_pair_is_that_of_the_matrix_however_far_the_other_is(matrix, size, tol):
    found = found_by(matrix, matrix + noise(size), jax.random.key(0), tol=tol)
    check(found, matrix, tol)
    assert found.converged
    if size <= 0.1:
        assert found.num_products <= {1e-1: 1, 1e-2: 1, 1e-6: 3}[tol]


@pytest.mark.slow
def test_each_product_makes_the_error_smaller_by_the_distance_over_the_gap(matrix):
    off, gap = 0.3, TOP[0] - TOP[1]
    residuals = [
        found_by(
            *(matrix, matrix + noise(off), jax.random.key(0)), tol=1e-9, max_products=n, rivals=1
        ).residual
        for n in (1, 2, 3)
    ]
    assert residuals[0] <= 1.5 * off
    for before, after in itertools.pairwise(residuals):
        assert after <= before * 1.5 * off / gap


@pytest.mark.slow
@pytest.mark.parametrize("near", ["zeros", "identity", "another", "nan"])
def test_lanczos_takes_over_where_the_other_matrix_is_of_no_use(matrix, near):
    matrices = {
        "zeros": np.zeros((SIZE, SIZE)),
        "identity": np.eye(SIZE),
        "another": noise(10.0),
        "nan": np.full((SIZE, SIZE), np.nan),
    }
    found = found_by(matrix, matrices[near], jax.random.key(1))
    check(found, matrix, 1e-6)
    assert found.converged and found.num_products > samples.STEPS * (near != "nan")


@pytest.mark.slow
def test_the_largest_of_the_sample_need_not_be_that_of_all(basis):
    """Two that change places are told apart, which one vector alone cannot."""
    rest = np.linspace(-1, 2, SIZE - 3)
    matrix, near = (
        basis * np.concatenate([top, rest]) @ basis.T for top in ([10.0, 9.5, 5.0], [9.0, 9.9, 5.0])
    )
    found = found_by(matrix, near, jax.random.key(0), tol=1e-2)
    np.testing.assert_allclose(found.value, 10.0, rtol=1e-5)
    assert found.num_products <= 3
    alone = found_by(matrix, near, jax.random.key(0), tol=1e-2, rivals=1)
    assert abs(alone.value - 9.5) < 0.01 and alone.converged


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1, 2, samples.STEPS + 1, samples.STEPS + 4])
def test_no_more_products_than_are_allowed(matrix, limit):
    found = found_by(matrix, matrix + noise(5.0), jax.random.key(0), tol=1e-12, max_products=limit)
    check(found, matrix, 1e-12)
    assert not found.converged and found.num_products <= limit


@pytest.mark.slow
def test_matrices_without_a_top(matrix):
    """Of a zero matrix zero; NaN, as from Lanczos, of what is not finite or out of range."""
    zero, key = np.zeros((SIZE, SIZE)), jax.random.key(0)
    for near in (zero, matrix):
        found = found_by(zero, near, key)
        assert found.value == found.residual == 0 and found.converged
    assert np.isnan(found_by(np.full((SIZE, SIZE), np.nan), matrix, key).value)
    for scale in (1e-300, 1e300):
        assert np.isnan(found_by(matrix * scale, matrix * scale, key).value)
    down = found_by(-matrix @ matrix - np.eye(SIZE), -matrix @ matrix - np.eye(SIZE), key)
    np.testing.assert_allclose(down.value, np.linalg.eigvalsh(-matrix @ matrix)[-1] - 1, rtol=1e-6)


@pytest.mark.slow
def test_streamed_products_and_those_of_several_networks():
    """Python loops around products on the host, and vmap, give what compiled loops give."""
    x = np.random.default_rng(3).normal(size=(120, 5))
    params = {"w": jnp.asarray(np.random.default_rng(4).normal(size=(5, 2)))}

    def loss(params, batch):
        return jnp.mean(jnp.sum(jnp.tanh(batch @ params["w"]) ** 2, -1))

    def pair(params, batch):
        matvec = curvature.hessian(loss, params, batch)
        near = curvature.hessian(loss, params, x[:40])
        found = top_by_sample(matvec, near, params, jax.random.key(5), tol=1e-4)
        return found.value, found.residual, found.num_products, found.num_near

    want = pair(params, x)
    dense = jax.hessian(lambda flat: loss({"w": flat.reshape(5, 2)}, x))(params["w"].ravel())
    assert abs(want[0] - np.linalg.eigvalsh(dense)[-1]) <= want[1] <= 1e-4 * abs(want[0])
    streamed = pair(params, core.Batches(lambda: [x[:50], x[50:]]))
    np.testing.assert_allclose(streamed[:2], want[:2], rtol=1e-5, atol=1e-12)
    assert streamed[2:] == want[2:]
    several = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
    both = jax.vmap(lambda params: pair(params, x))(several)
    np.testing.assert_allclose([column[0] for column in both[:2]], want[:2], rtol=1e-5, atol=1e-12)
    two = pair(jax.tree.map(lambda leaf: 2 * leaf, params), x)
    np.testing.assert_allclose([column[1] for column in both[:2]], two[:2], rtol=1e-5, atol=1e-12)
