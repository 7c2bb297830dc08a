"""Small programs of known and unknown operations: right against dense matrices, or refused."""

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
LAYERS = {
    "weights": lambda p, x, h: p["m"] @ h,
    "tied": lambda p, x, h: p["m"].T @ h,
    "bias": lambda p, x, h: h + p["b"],
    "gain": lambda p, x, h: h * p["s"],
    "gain_and_bias": lambda p, x, h: jax.nn.relu(h * p["s"] + p["b"]),
    "again": lambda p, x, h: h + x @ p["a"],
    "products_of_parameters": lambda p, x, h: (p["m"] * p["s"][:, None]) @ h + p["m"] @ p["b"],
    "einsum": lambda p, x, h: jnp.einsum("i,ij,j->i", h, p["m"], x[:2].repeat(2)),
    "outer": lambda p, x, h: jnp.outer(h, p["s"]).reshape(2, 8).sum(1).repeat(2),
    "conv": lambda p, x, h: jnp.convolve(h, p["k"], "same"),
    "embedding": lambda p, x, h: h + p["m"][jnp.argmax(h)],
    "concatenated": lambda p, x, h: jnp.concatenate([h[:2], p["b"][2:]]),
    "max_pool": lambda p, x, h: jax.lax.reduce_window(h, -jnp.inf, jax.lax.max, (2,), (1,), "SAME"),
    "avg_pool": lambda p, x, h: jax.lax.reduce_window(h, 0.0, jax.lax.add, (2,), (1,), "SAME") / 2,
    "transposed": lambda p, x, h: h.reshape(2, 2).T.ravel(),
    "residual": lambda p, x, h: h + jax.nn.relu(p["m"] @ h),
    "normalized_weights": lambda p, x, h: p["m"] / jnp.linalg.norm(p["m"]) @ h,
}
STEPS_OF = LAYERS | {name: lambda p, x, h, f=f: f(h) for name, f in STEPS.items()}


def draw_programs(number=102):
    """Random compositions: two to four layers or steps each, every one of them in some."""
    rng, names = np.random.default_rng(0), list(STEPS_OF)
    starts = [names[i % len(names)] for i in range(number)]
    return [(start, *rng.choice(names, rng.integers(1, 4))) for start in starts]


PROGRAMS = draw_programs()


def network(*names):
    def fn(params, stats, x):
        h = x @ params["a"]
        for name in names:
            h = STEPS_OF[name](params, x, h)
        return h @ params["c"]

    return fn


def problem():
    rng = np.random.default_rng(3)
    shapes = {"a": (3, 4), "b": (4,), "c": (4, 2), "k": (3,), "m": (4, 4), "s": (4,)}
    params = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
    return params, jnp.asarray(rng.normal(size=(3, 3)))


def dense_traces(fn, params, images):
    """Traces of the Hessian's and of the Gauss-Newton matrix's blocks, in the dense form."""
    flat, unflatten = ravel_pytree(params)

    def diagonals(x):
        outputs = lambda flat: fn(unflatten(flat), {}, x)  # noqa: E731

        def along(e):  # forward mode alone, while exact traces go backward
            return jax.jvp(lambda at: jax.jvp(outputs, (at,), (e,))[1], (flat,), (e,))

        slopes, curved = jax.vmap(along)(jnp.eye(flat.size))
        gauss_newton = 2 * jnp.sum(slopes**2, 1)
        return gauss_newton + 2 * curved @ outputs(flat), gauss_newton

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


@pytest.mark.slow
@pytest.mark.parametrize("names", PROGRAMS, ids="-".join)
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

    tolerance = 1e-5 if "float32" in names else 1e-10
    for got, want in everything(params, images).values():
        got, want = ravel_pytree(got)[0], ravel_pytree(want)[0]
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())
    COUNTS["refused" if exponents is None else "right"] += 1
    if exponents is not None:  # of the first weights, and so none of parameters without a use
        COUNTS["rescalings"] += bool(np.abs(exponents[0]).max(initial=0) > 1e-6)


@pytest.mark.slow
def test_many_programs_are_right_and_many_refused():
    if COUNTS["right"] + COUNTS["refused"] == len(PROGRAMS):  # where all of them ran before this
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
RELU = custom(lambda h: jnp.maximum(h, 0), lambda h, g: g * (h > 0))
TRUE = {  # with the same function without a rule
    "relu": (RELU, lambda h: jnp.maximum(h, 0)),
    "library": (jax.nn.relu6, lambda h: jnp.clip(h, 0, 6)),
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
    ruled, plain = (lambda p, s, x, f=f: f(x @ p["a"]) @ p["c"] for f in TRUE[name])
    want, _ = jax.jit(lambda p: dense_traces(plain, p, images))(params)
    got = exact_traces(ruled, params, {}, images, factors=squared_factors)
    np.testing.assert_allclose(got["a"], want["a"], rtol=1e-10)


def test_a_false_rule_inside_a_branch_is_refused():
    """Where the Gauss-Newton traces do not look at the operation itself."""
    params, images = problem()
    branch = lambda h: jax.lax.cond(h[0] > 0, FALSE["reversed"], jnp.sin, h)  # noqa: E731
    with pytest.raises(StructureError, match=r"rule of a custom_vjp .*is not its function's"):
        exact_ggn_traces(lambda p, s, x: branch(x @ p["a"]) @ p["c"], params, {}, images)


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
