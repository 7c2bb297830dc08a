"""Matrices with known spectra, most of them chosen to break Lanczos, and their solution."""

from functools import partial

import jax
import numpy as np

from jaxsharp.curvature import top_eigenpairs

SIZE = 40
K = 5
LOOSE = {"tol": 1e-4, "basis_size": 30}


def solve(matrix, seed=0, k=K, tol=1e-9, basis_size=15, max_products=2000):
    return compiled(matrix, seed, k, tol, basis_size, max_products)


@partial(jax.jit, static_argnums=(2, 3, 4, 5))
def compiled(matrix, seed, k, tol, basis_size, max_products):
    like = jax.ShapeDtypeStruct(matrix.shape[:1], matrix.dtype)
    return top_eigenpairs(
        lambda vector: matrix @ vector,
        like,
        key=jax.random.key(seed),
        k=k,
        tol=tol,
        basis_size=basis_size,
        max_products=max_products,
    )


def assert_eigenpairs(pairs, matrix, scale):
    """The k largest eigenvalues to rounding, unit orthogonal vectors, and honest residuals."""
    truth = np.linalg.eigvalsh(matrix)[::-1]
    vectors = np.asarray(pairs.vectors)
    k = len(pairs.values)
    # Rounding of a product: 40 terms, and a few hundred steps that add it up.
    np.testing.assert_allclose(pairs.values, truth[:k], atol=1e-13 * scale, rtol=0)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(k), atol=1e-13)
    residuals = np.linalg.norm(vectors @ matrix - pairs.values[:, None] * vectors, axis=1)
    # Each is told what rounding adds to all of them together, up to 60 eps each after 360 products.
    assert np.all(pairs.residuals >= residuals * (1 - 1e-6) - 3e-15 * scale)
    assert np.all(pairs.residuals <= residuals * (1 + 1e-6) + 1.4e-14 * k**0.5 * scale)
    assert np.all(pairs.converged)


spread = np.random.default_rng(3).uniform(-1, 1, SIZE)
spectra = {
    "spikes": np.r_[[20.0, 15, 12, 11, 10], spread[5:]],
    "uniform": spread,
    "identity": np.ones(SIZE),
    "zero": np.zeros(SIZE),
    "rank_1": np.r_[3.0, np.zeros(SIZE - 1)],
    "rank_1_negative": np.r_[-3.0, np.zeros(SIZE - 1)],
    "rank_8_of_15_rows": np.r_[np.arange(1.0, 9), np.zeros(SIZE - 8)],
    "two_values": np.repeat([2.0, -1.0], SIZE // 2),
    "clustered": np.r_[1 + 1e-6 * np.arange(K), spread[K:] / 2],
    "condition_1e12": np.logspace(-12, 0, SIZE),
    "all_negative": -np.logspace(-1, 1, SIZE),
    "large_negative_values": np.r_[-100.0, -90, -80, spread[3:]],
}
