"""Convolutions as matrix products: the same numbers, in whatever program they stand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsharp.core.convolutions import CONVOLUTION, as_matrix_products
from jaxsharp.core.programs import primitives

RNG = np.random.default_rng(0)
X, K = jnp.asarray(RNG.normal(size=(2, 9, 8, 3))), jnp.asarray(RNG.normal(size=(3, 2, 3, 4)))


def conv(x, k, strides=(1, 1), padding="SAME", layout=("NHWC", "HWIO", "NHWC"), **more):
    return jax.lax.conv_general_dilated(x, k, strides, padding, dimension_numbers=layout, **more)


def names(fn, *args):
    return set(primitives(jax.make_jaxpr(fn)(*args).jaxpr))


FORMS = {
    "plain": (conv, X, K),
    "strided": (lambda x, k: conv(x, k, (2, 3), "VALID"), X, K),
    "dilated kernel": (lambda x, k: conv(x, k, rhs_dilation=(2, 3)), X, K),
    "uneven padding": (lambda x, k: conv(x, k, padding=[(0, 2), (-1, 3)]), X, K),
    "channels first": (
        lambda x, k: conv(x, k, layout=("NCHW", "OIHW", "NCHW")),
        X.transpose(0, 3, 1, 2),
        K.transpose(3, 2, 0, 1),
    ),
    "one axis": (
        lambda x, k: conv(x, k, (2,), layout=("NWC", "WIO", "NWC")),
        X[:, 0],
        K[0],
    ),
    "three axes": (
        lambda x, k: conv(x, k, (1, 1, 2), layout=("NDHWC", "DHWIO", "NDHWC")),
        X[:, :, :, None] * jnp.arange(1.0, 3)[:, None],
        K[:, :, None],
    ),
    "in a call": (lambda x, k: jax.jit(conv)(x, k) + 1, X, K),
    "in a scan": (
        lambda x, k: jax.lax.scan(lambda c, y: (c + 1, conv(y[None], k)), 0, x)[1],
        X,
        K,
    ),
    "in a branch": (
        lambda x, k: jax.lax.cond(x.sum() > 0, conv, lambda x, k: 0 * conv(x, k), x, k),
        X,
        K,
    ),
    "recomputed": (jax.checkpoint(lambda x, k: jnp.sin(conv(x, k))), X, K),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_values_and_derivatives_are_those_of_the_convolution(x64, form):
    fn, x, k = FORMS[form]
    x, k = (jnp.asarray(np.asarray(a), jnp.float64) for a in (x, k))
    lowered = as_matrix_products(fn)
    assert CONVOLUTION in names(fn, x, k) and CONVOLUTION not in names(lowered, x, k)
    np.testing.assert_allclose(lowered(x, k), fn(x, k), rtol=1e-12, atol=1e-12)
    scalar = lambda f: lambda k: jnp.sum(jnp.sin(f(x, k)))  # noqa: E731
    gradients = [jax.jit(jax.grad(scalar(f)))(k) for f in (lowered, fn)]
    np.testing.assert_allclose(*gradients, rtol=1e-10, atol=1e-10)
    batched = jax.vmap(lambda scale: lowered(x, scale * k))(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(batched[0], fn(x, k), rtol=1e-12, atol=1e-12)


def test_what_is_not_known_stays():
    grouped = lambda x, k: conv(x, k, feature_group_count=3)  # noqa: E731
    k = jnp.asarray(RNG.normal(size=(3, 2, 1, 6)), jnp.float32)
    assert CONVOLUTION in names(as_matrix_products(grouped), X, k)
    np.testing.assert_array_equal(as_matrix_products(grouped)(X, k), grouped(X, k))
    transposed = lambda x, k: conv(x, k, padding=[(0, 0)] * 2, lhs_dilation=(2, 2))  # noqa: E731
    assert CONVOLUTION in names(as_matrix_products(transposed), X, K)

    @jax.custom_vjp
    def own(x, k):
        return conv(x, k)

    own.defvjp(lambda x, k: (own(x, k), (x, k)), lambda kept, g: kept)
    assert jax.grad(lambda k: as_matrix_products(own)(X, k).sum())(K) is not None
    np.testing.assert_array_equal(jax.grad(lambda k: as_matrix_products(own)(X, k).sum())(K), K)


def test_programs_without_convolutions_are_left_alone():
    calls = []

    def fn(x):
        calls.append(1)
        return {"a": x * 2, "b": None}

    assert as_matrix_products(fn)(jnp.ones(2))["b"] is None
    with pytest.raises(ValueError, match="as it says"):
        as_matrix_products(lambda x: (_ for _ in ()).throw(ValueError("as it says")))(X)
