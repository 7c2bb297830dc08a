"""Averages over probes of matrices with known spectra, compiled, and the errors of theory."""

from functools import partial

import jax
import numpy as np

from jaxsharp.curvature import diagonal, frobenius_norm, hutchinson

SIZE = 40
ESTIMATORS = (hutchinson, diagonal, frobenius_norm)


@partial(jax.jit, static_argnames=("estimator", "rtol", "atol", "max_products", "vmapped"))
def estimate(estimator, matrix, seed=0, *, rtol=0.0, atol=0.0, max_products=100, vmapped=1):
    like = jax.ShapeDtypeStruct(matrix.shape[:1], matrix.dtype)
    return estimator(
        lambda vector: matrix @ vector,
        like,
        key=jax.random.key(seed),
        rtol=rtol,
        atol=atol,
        max_products=max_products,
        vmapped=vmapped,
    )


def probe_deviation(estimator, matrix):
    """Return the standard deviation for one probe, from the off-diagonal part."""
    off = matrix - np.diag(np.diag(matrix))
    if estimator is diagonal:
        return np.linalg.norm(off, axis=0)
    if estimator is hutchinson:
        return np.sqrt(2) * np.linalg.norm(off)
    return probe_deviation(hutchinson, matrix @ matrix) / (2 * np.linalg.norm(matrix))


uniform = np.random.default_rng(3).uniform(-1, 1, SIZE)
spectra = {
    "rank_1": np.r_[3.0, np.zeros(SIZE - 1)],
    "uniform": uniform,
    "trace_zero": uniform - uniform.mean(),
    "decaying": 0.7 ** np.arange(SIZE),
}
