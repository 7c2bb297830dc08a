"""Means over examples in 16 bits, against float64; sizes of products at the ends of float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsharp.core import Batches, mean_over_batches, mean_over_chunks
from jaxsharp.curvature import (
    bottom_eigenpairs,
    diagonal,
    empirical_fisher,
    fisher,
    frobenius_norm,
    gaussian,
    ggn,
    hessian,
    hutchinson,
    hutchpp,
    preconditioned,
    spectral_density,
    top_eigenpairs,
    xtrace,
)
from jaxsharp.networks import cross_entropy

KEY = jax.random.key(0)
N = 2000
X = np.random.default_rng(0).standard_normal((N, 3)) + 1
LOW = [jnp.bfloat16, jnp.float16]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", LOW)
def test_means_do_not_saturate(dtype):
    """Summed one by one in bfloat16, two thousand ones stop growing at 256."""
    ones = jnp.ones((N, 2), dtype)
    for size in (None, 1, 7, 300):
        assert jnp.all(mean_over_chunks(lambda c: jnp.mean(c, axis=0), ones, size) == 1)
    batches = Batches(lambda: [ones[i : i + 8] for i in range(0, N, 8)])
    found = mean_over_batches(lambda c: jnp.mean(c, axis=0), batches)
    assert found.dtype == dtype
    assert jnp.all(found == 1)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("size", [1, 300, "whole"])
def test_products_are_right_to_the_rounding_of_the_parameters(dtype, size):
    """Parameters in 16 bits, and outputs too: 1/n of float16 would lose digits."""
    x = np.asarray(jnp.asarray(X, dtype), np.float64)
    w = jnp.array([0.5, -0.25, 0.125], dtype)
    wide = np.asarray(w, np.float64)
    tanh = np.tanh(x @ wide)
    second = 2 * (1 - tanh**2) * (1 - 3 * tanh**2)
    share = (x.T * second) @ x / N
    outputs = lambda w, b: (b @ w.astype(dtype))[:, None]  # noqa: E731
    gram = x.T @ x / N
    gradients = (2 * tanh * (1 - tanh**2))[:, None] * x
    data, loss = jnp.asarray(X, dtype), lambda w, b: jnp.mean(jnp.tanh(b @ w) ** 2)
    half = lambda out, b: jnp.mean(out**2) / 2  # noqa: E731
    options = {"chunk_size": size, "recompute": True, "check": False}
    for operator, exact in (
        (hessian(loss, w, data, **options), share),
        (ggn(outputs, half, w, data, **options), gram),
        (fisher(outputs, gaussian, w, data, **options), gram),
        (empirical_fisher(loss, w, data, **options), gradients.T @ gradients / N),
    ):
        product = operator(w)
        assert product.dtype == dtype
        scale = np.abs(exact @ wide).max()
        eps = float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(
            np.asarray(product, np.float64), exact @ wide, atol=4 * eps * scale
        )


@pytest.mark.slow
def test_a_loss_in_16_bits_is_refused_and_cross_entropy_is_none():
    loss = lambda w, b: jnp.mean(b @ w).astype(jnp.bfloat16)  # noqa: E731
    with pytest.raises(ValueError, match="loss returned bfloat16; its mean"):
        hessian(loss, jnp.ones(3), jnp.asarray(X, jnp.float32))
    logits, labels = jnp.ones((4, 3), jnp.bfloat16), jnp.arange(4) % 3
    assert cross_entropy(logits, labels).dtype == jnp.float32
    np.testing.assert_allclose(cross_entropy(logits, labels), np.log(3), rtol=1e-6)


ESTIMATES = {
    "top": lambda a, like: (lambda e: (e.values[0], e.converged[0]))(
        top_eigenpairs(a, like, key=KEY, k=1)
    ),
    "bottom": lambda a, like: (lambda e: (e.values[0], e.converged[0]))(
        bottom_eigenpairs(a, like, key=KEY, k=1)
    ),
    "hutchinson": lambda a, like: (lambda t: (t.mean, t.converged))(hutchinson(a, like, key=KEY)),
    "hutchpp": lambda a, like: (lambda t: (t.mean, t.converged))(hutchpp(a, like, key=KEY)),
    "xtrace": lambda a, like: (lambda t: (t.mean, t.converged))(xtrace(a, like, key=KEY)),
    "frobenius": lambda a, like: (lambda t: (t.mean, t.converged))(
        frobenius_norm(a, like, key=KEY)
    ),
    "diagonal": lambda a, like: (lambda t: (t.mean[0], t.converged))(diagonal(a, like, key=KEY)),
    "density": lambda a, like: (
        spectral_density(a, like, key=KEY, num_probes=2).moment(1).mean,
        True,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ESTIMATES)
def test_one_parameter_is_a_matrix_too(name):
    for value in (3.0, 0.0):
        found, converged = ESTIMATES[name](lambda v, c=value: c * v, jnp.ones(1))
        assert converged
        np.testing.assert_allclose(found, value, rtol=1e-6)
    pairs = top_eigenpairs(lambda v: 3 * v, jnp.ones(1), key=KEY, k=1)
    assert pairs.residuals[0] <= 1e-6


def test_more_pairs_than_parameters_are_refused():
    with pytest.raises(ValueError, match="k is 2; the operator has 1"):
        top_eigenpairs(lambda v: v, jnp.ones(1), key=KEY, k=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ESTIMATES)
def test_norms_at_the_ends_of_the_dtype_are_refused(name):
    """Never a value of zero that has converged; inside jit NaN that has not."""
    like = jnp.ones(5)
    for scale in (1e38, 1e-36):
        scaled = lambda v, s=scale: v * (jnp.arange(1.0, 6.0) / 5 * s)  # noqa: E731
        with pytest.raises(ValueError, match="products have norms of") as error:
            ESTIMATES[name](scaled, like)
        assert "\n" not in str(error.value)
    found, converged = jax.jit(lambda like: ESTIMATES[name](scaled, like))(like)
    assert jnp.isnan(found)
    assert name == "density" or not converged


def outcome(name, matvec, like, how):
    """Return "refused", "unfinished", or the value that it says is right."""
    function = lambda like: ESTIMATES[name](matvec, like)  # noqa: E731
    try:
        found, converged = how(function)(like)
    except ValueError as error:
        assert "multiply the loss by a constant" in str(error) and "\n" not in str(error)
        return "refused"
    return "unfinished" if jnp.isnan(found) or not converged else float(found)


ENTRIES = jnp.arange(1.0, 6.0) / 5
FLUSHED = {
    # Products of unit vectors are below the smallest number, those of larger ones are not.
    "product": lambda v: (v * 1e-20) * ENTRIES * 1e-22,
    # The numbers of the matrix are.
    "number": lambda v: v * ENTRIES * 1e-41,
    "array": lambda v: v * np.full(5, 2e-40, np.float32),
    "in a loop": lambda v: jax.lax.fori_loop(0, 2, lambda i, v: v * 1e-39, v),
    "loss": hessian(lambda w, x: 1e-37 * jnp.mean((x @ w) ** 2) * 1e-4, jnp.ones(5), jnp.eye(5)),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("matrix", FLUSHED)
@pytest.mark.parametrize("name", ESTIMATES)
def test_what_is_flushed_to_zero_is_no_zero_that_has_converged(name, matrix, how):
    expected = "refused" if how is not jax.jit else "unfinished"
    assert outcome(name, FLUSHED[matrix], jnp.ones(5), how) == expected


@pytest.mark.slow
@pytest.mark.parametrize("how", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("name", ESTIMATES)
def test_a_matrix_of_zeros_is_zero(name, how):
    """Also one of whose parameters an entry is flushed to zero, where that does not matter."""
    assert outcome(name, lambda v: 0 * v, jnp.ones(5), how) == 0.0
    w = jnp.asarray([1e-40, 1.0, 1.0, 1.0, 1.0])
    matrix = hessian(lambda w, x: jnp.mean((x @ w) ** 2), w, jnp.eye(5))
    assert outcome(name, matrix, jnp.ones(5), how) == pytest.approx(
        {"hutchinson": 2, "hutchpp": 2, "xtrace": 2, "frobenius": 0.4 * 5**0.5}.get(name, 0.4),
        rel=1e-5,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["top", "hutchinson"])
def test_of_many_matrices_those_that_are_flushed_have_not_converged(name):
    def each(scale):
        return ESTIMATES[name](lambda v: (v * 1e-20) * ENTRIES * scale, jnp.ones(5))

    found, converged = jax.jit(jax.vmap(each))(jnp.asarray([1e-22, 1e20, 0.0]))
    np.testing.assert_array_equal(converged, [False, True, True])
    assert jnp.isnan(found[0]) and found[2] == 0
    np.testing.assert_allclose(found[1], {"top": 1, "hutchinson": 3}[name], rtol=1e-5)


@pytest.mark.slow
def test_a_diagonal_that_is_flushed_to_zero_is_refused():
    for entries in (np.array([1, 1e-40], np.float32), jnp.asarray([1, 1e-40], jnp.float32)):
        with pytest.raises(ValueError, match=r"its entries must be .* at least 1\.2e-38"):
            preconditioned(lambda v: v, {"w": entries})
