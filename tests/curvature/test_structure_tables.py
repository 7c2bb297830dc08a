"""Small programs of known and unknown operations: right against dense matrices, or refused."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxsharp.curvature import (
    StructureError,
    analyze,
    exact_ggn_traces,
    exact_traces,
    squared_factors,
)

pytestmark = pytest.mark.usefixtures("double_precision")

INDEX = np.array([0, 2, 2, 1])
STEPS = {
    "relu": jax.nn.relu,
    "leaky": lambda h: jax.nn.leaky_relu(h, 0.3),
    "abs": jnp.abs,
    "tanh": jnp.tanh,
    "silu": jax.nn.silu,
    "relu6": jax.nn.relu6,
    "quantized": lambda h: h.astype(jnp.int32) * 0.5 + h,
    "floored": lambda h: h - jnp.floor(h),
    "signed": lambda h: jnp.sign(h) * h,
    "scatter_add": lambda h: h.at[INDEX].add(h),
    "scatter_set": lambda h: h.at[np.array([1, 0])].set(h[2:]),
    "scatter_mul": lambda h: h.at[np.array([1])].mul(h[2], unique_indices=True),
    "segment_sum": lambda h: jax.ops.segment_sum(h, INDEX, 4),
    "gather": lambda h: h[INDEX],
    "reduce_product": lambda h: h + jax.lax.reduce(h, np.float64(1), lambda a, b: a * b, (0,)),
    "prod": lambda h: h + jnp.prod(h),
    "sort": jnp.sort,
    "top_k": lambda h: jnp.tile(jax.lax.top_k(h, 2)[0], 2),
    "cumsum": jnp.cumsum,
    "argmax": lambda h: h * jax.nn.one_hot(jnp.argmax(h), 4, dtype=h.dtype) + h,
    "where": lambda h: jnp.where(h > h[::-1], h, 0.5 * h),
    "scan": lambda h: jax.lax.scan(lambda c, x: (c + x, c), 0.0, h)[1] + h,
    "cond": lambda h: jax.lax.cond(h[0] > 0, lambda h: h, lambda h: 2 * h, h),
    "remat": jax.checkpoint(lambda h: jnp.maximum(h, 0)),
    "float32": lambda h: h.astype(jnp.float32).astype(h.dtype),
    "dynamic": lambda h: jnp.roll(jax.lax.dynamic_update_slice(h, h[:2], (1,)), 1),
    "stopped": lambda h: h + jax.lax.stop_gradient(h),
    "norm": lambda h: h / jnp.sqrt(1 + jnp.sum(h * h)),
    "complex": lambda h: jnp.fft.fft(h).real + h,
}
NAMES = list(itertools.product(STEPS, ["relu", "sort", "quantized", "tanh"]))


def network(first, second):
    def fn(params, stats, x):
        h = STEPS[second](x @ params["a"])
        h = STEPS[first](params["m"] @ h + params["b"])
        return h @ params["c"]

    return fn


def problem():
    rng = np.random.default_rng(3)
    shapes = {"a": (3, 4), "m": (4, 4), "b": (4,), "c": (4, 2)}
    params = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
    return params, jnp.asarray(rng.normal(size=(3, 3)))


def dense_traces(fn, params, images):
    """Traces of the Hessian's and of the Gauss-Newton matrix's blocks, in the dense form."""
    flat, unflatten = ravel_pytree(params)

    def diagonals(x):
        outputs = lambda flat: fn(unflatten(flat), {}, x)  # noqa: E731
        jacobian = jax.jacrev(outputs)(flat)
        curved = jax.jacfwd(jax.jacrev(outputs))(flat)
        gauss_newton = 2 * jnp.sum(jacobian**2, 0)
        return gauss_newton + 2 * jnp.einsum("oii,o->i", curved, outputs(flat)), gauss_newton

    hessian, gauss_newton = (d.mean(0) for d in jax.vmap(diagonals)(images))
    return [jax.tree.map(jnp.sum, unflatten(d)) for d in (hessian, gauss_newton)]


def exponents_of(fn, params, image):
    """Exponents, or None where the program is refused, in one line."""
    try:
        return analyze(fn, params, {}, image).exponents
    except StructureError as error:
        assert "\n" not in str(error)
        return None


COUNTS = {"right": 0, "refused": 0, "rescalings": 0}


@pytest.mark.parametrize("names", NAMES, ids="-".join)
def test_a_program_is_right_or_refused(names):
    fn, (params, images) = network(*names), problem()
    exponents = exponents_of(fn, params, images[0])

    @jax.jit  # one program: most of the time goes into compilation
    def everything(params, images):
        hessian, gauss_newton = dense_traces(fn, params, images)
        exact = exact_ggn_traces(fn, params, {}, images, factors=squared_factors)
        pairs = {"Gauss-Newton": (exact, gauss_newton)}
        if exponents is None:
            with pytest.raises(StructureError, match="exact_ggn_traces"):
                exact_traces(fn, params, {}, images, factors=squared_factors)
            return pairs
        exact = exact_traces(fn, params, {}, images, factors=squared_factors)
        pairs["Hessian"] = exact, hessian
        for k, direction in enumerate(exponents.T):
            factors = dict(zip(sorted(params), np.exp(0.7 * direction), strict=True))
            moved = {name: params[name] * factors[name] for name in params}
            of = jax.vmap(fn, (None, None, 0))
            pairs[f"rescaling {k}"] = of(moved, {}, images), of(params, {}, images)
        return pairs

    for got, want in everything(params, images).values():
        tolerance = 1e-5 if "float32" in names else 1e-11
        jax.tree.map(partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance), got, want)
    COUNTS["refused" if exponents is None else "right"] += 1
    COUNTS["rescalings"] += exponents is not None and exponents.shape[1] > 0


def test_many_programs_are_right_and_many_refused():
    if COUNTS["right"] + COUNTS["refused"] == len(NAMES):  # where all of them ran before this
        print(COUNTS)
        assert COUNTS["right"] >= 40
        assert COUNTS["rescalings"] >= 20
        assert COUNTS["refused"] >= 40


def custom(forward, backward):
    fn = jax.custom_vjp(forward)
    fn.defvjp(lambda h: (forward(h), h), lambda h, g: (backward(h, g),))
    return fn


FALSE = {
    "reversed": custom(lambda h: h, lambda h, g: -g),
    "straight_through": custom(lambda h: jnp.round(h), lambda h, g: g),
    "clipped": custom(lambda h: h, lambda h, g: jnp.clip(g, -1, 1)),
    "scaled": custom(jax.nn.relu, lambda h, g: 1.01 * g * (h > 0)),
}


@jax.custom_jvp
def doubled(h):
    return h


doubled.defjvp(lambda primals, tangents: (primals[0], 2 * tangents[0]))
FALSE["doubled"] = doubled
TRUE = {
    "relu": custom(lambda h: jnp.maximum(h, 0), lambda h, g: g * (h > 0)),
    "library": jax.nn.relu6,
}


@pytest.mark.parametrize("function", [exact_traces, exact_ggn_traces])
@pytest.mark.parametrize("name", FALSE)
def test_a_rule_that_is_not_the_derivative_is_refused(name, function):
    params, images = problem()
    fn = lambda p, s, x: FALSE[name](x @ p["a"]) @ p["c"]  # noqa: E731
    with pytest.raises(StructureError, match=r"rule of a custom_[jv][vj]p .*not its function's"):
        function(fn, params, {}, images)


@pytest.mark.parametrize("name", TRUE)
def test_a_rule_that_is_the_derivative_is_taken(name):
    params, images = problem()
    fn = lambda p, s, x: TRUE[name](x @ p["a"]) @ p["c"]  # noqa: E731
    want, _ = jax.jit(lambda p: dense_traces(fn, p, images))(params)
    got = exact_traces(fn, params, {}, images, factors=squared_factors)
    np.testing.assert_allclose(got["a"], want["a"], rtol=1e-10)


REFUSED = ("reduce_product", "scan", "stopped", "complex")


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_refused_by_name(name):
    params, images = problem()
    with pytest.raises(StructureError, match=r"parameter \['a'\]: .+ is not read"):
        exact_traces(network(name, "relu"), params, {}, images)


def test_a_quantized_activation_admits_no_rescaling():
    params, images = problem()
    fn = lambda p, s, x: STEPS["quantized"](x @ p["a"]) @ p["c"]  # noqa: E731
    used = {name: params[name] for name in ("a", "c")}
    assert analyze(fn, used, {}, images[0]).exponents.shape == (2, 0)


def test_a_network_without_a_reverse_derivative_is_refused_in_one_line():
    params, images = problem()
    loop = lambda h: jax.lax.while_loop(lambda h: h[0] < 3, lambda h: 2 * h + 1, h)  # noqa: E731
    fn = lambda p, s, x: loop(x @ p["a"]) @ p["c"]  # noqa: E731
    with pytest.raises(StructureError, match="has no derivative in reverse mode: ") as caught:
        exact_ggn_traces(fn, params, {}, images)
    assert "\n" not in str(caught.value)
