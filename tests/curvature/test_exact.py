"""Exact diagonals and group traces against dense Hessians and Gauss-Newton matrices, in float64."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend import core
from jax.flatten_util import ravel_pytree

from jaxsharp.curvature import (
    StructureError,
    exact_diagonal,
    exact_ggn_diagonal,
    exact_ggn_traces,
    exact_traces,
    softmax_factors,
    squared_factors,
)
from tests.cases import CASES, NUM_EXAMPLES, cross_entropy, make_case, squared_error
from tests.references import dense_hessian, dot_precisions
from tests.tinynets import cnn, generic_point, mlp, tiny_dataset

pytestmark = pytest.mark.usefixtures("double_precision")

QUALIFIED = ("relu_mlp", "cnn", "batch_norm_cnn", "equinox")
LOSSES = {"softmax": (softmax_factors, cross_entropy), "squared": (squared_factors, squared_error)}
FUNCTIONS = [exact_traces, exact_diagonal]


@cache
def case_of(name):
    """The case, and its network of a single example."""
    case = make_case(name)
    return case, lambda params, stats, x: case.apply(params, {"x": x[None]})[0]


def single(network):
    return lambda params, stats, image: network.apply(params, stats, image[None], False)[0][0]


def assert_close(got, want):
    """Equal to rounding of the largest entry of all, and of the same shapes."""
    jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape), got, want)
    got, want = ravel_pytree(got)[0], ravel_pytree(want)[0]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12 * np.abs(want).max())


def assert_both(functions, want, fn, params, stats, images, **options):
    """The diagonal is ``want``, and the traces are its sums."""
    traces, diag = functions
    assert_close(diag(fn, params, stats, images, **options), want)
    sums = jax.tree.map(jnp.sum, want)
    assert_close(traces(fn, params, stats, images, **options), sums)


def dense_diagonal(loss, params, batch):
    _, unflatten = ravel_pytree(params)
    return unflatten(jnp.diag(dense_hessian(loss, params, batch)))


@partial(jax.jit, static_argnums=(0, 1))
def gauss_newton_diagonal(fn, output_loss, params, images):
    """Diagonal of (1/n) sum_i J_i^T (Hessian of the loss in the logits) J_i, all of it dense."""
    logits = jax.vmap(lambda x: fn(params, {}, x))(images)
    labels = {"y": jnp.zeros(1, int)}  # the Hessians depend on none
    hessians = jax.vmap(jax.hessian(lambda f: output_loss(f[None], labels)))(logits)
    jacobians = jax.vmap(lambda x: jax.jacrev(fn)(params, {}, x))(images)
    return jax.tree.map(
        lambda j: jnp.einsum("nc...,ncd,nd...->...", j, hessians, j) / len(images), jacobians
    )


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", QUALIFIED)
def test_cases_have_the_diagonal_of_the_dense_hessian(name, loss):
    (case, fn), (factors, output_loss) = case_of(name), LOSSES[loss]
    want = dense_diagonal(lambda p, b: output_loss(case.apply(p, b), b), case.params, case.batch)
    assert_both(FUNCTIONS, want, fn, case.params, {}, case.batch["x"], factors=factors)


@pytest.mark.slow
@pytest.mark.parametrize(
    "network", [mlp(), cnn("patches"), cnn("conv")], ids=["mlp", "patches", "conv"]
)
def test_networks_have_the_diagonal_of_the_dense_hessian(network):
    batch, (params, stats) = tiny_dataset(num=12).train, generic_point(network)
    want = dense_diagonal(network.frozen_loss(stats), params, batch)
    images = jnp.asarray(batch.images)
    assert_both(FUNCTIONS, want, single(network), params, stats, images, chunk_size=5)


@pytest.mark.parametrize("name", sorted(set(CASES) - set(QUALIFIED)))
@pytest.mark.parametrize("function", FUNCTIONS)
def test_other_networks_are_refused_by_name_of_the_alternative(function, name):
    """For tanh the diagonal blocks of Hessian and Gauss-Newton matrix differ."""
    case, fn = case_of(name)
    with pytest.raises(StructureError, match=r"tanh.*parameter.*exact_ggn_traces"):
        function(fn, case.params, {}, case.batch["x"])


def two_heads(params, stats, x):
    """One weight, used twice side by side: linear, but no outer product per example."""
    return (x[:4] @ params["w"] + jax.nn.relu(x[4:] @ params["w"])) @ params["v"]


@jax.jit
def affine(x, w):
    return x @ w


def called_twice(params, stats, x):
    """Two layers through one jitted function, so that both share one inner program."""
    return affine(jax.nn.relu(affine(x, params["w"])), params["v"])


@pytest.mark.slow
@pytest.mark.parametrize(("fn", "size"), [(two_heads, 8), (called_twice, 4)])
def test_shared_weights_and_shared_programs(fn, size):
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(4, 4))), "v": jnp.asarray(rng.normal(size=(4, 4)))}
    batch = {"x": jnp.asarray(rng.normal(size=(9, size))), "y": jnp.asarray(rng.integers(0, 4, 9))}
    loss = lambda p, b: cross_entropy(jax.vmap(partial(fn, p, {}))(b["x"]), b)  # noqa: E731
    assert_both(FUNCTIONS, dense_diagonal(loss, params, batch), fn, params, {}, batch["x"])


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ["tanh_mlp", "tied"])
def test_gauss_newton_diagonal_of_networks_that_do_not_qualify(name, loss):
    (case, fn), (factors, output_loss) = case_of(name), LOSSES[loss]
    images = case.batch["x"]
    want = gauss_newton_diagonal(fn, output_loss, case.params, images)
    both = exact_ggn_traces, exact_ggn_diagonal
    assert_both(both, want, fn, case.params, {}, images, factors=factors, chunk_size=4)


def every_kind_of_product(params, stats, x):
    """Parameters on both sides of products, reshaped, in groups, batches, loops, unused."""
    conv = partial(jax.lax.conv_general_dilated, x[None])
    strided = conv(
        *(params["strided"], (2, 1), ((1, 0), (2, -1))),
        **{"lhs_dilation": (2, 1), "rhs_dilation": (1, 2)},
        dimension_numbers=("NCHW", "OIHW", "NHWC"),
    )
    grouped = conv(
        *(params["grouped"], (1, 1), "VALID"),
        **{"dimension_numbers": ("NCHW", "HWIO", "NCHW"), "feature_group_count": 2},
    )
    row = x.reshape(-1, 5)
    left = params["left"] @ row.T
    transposed = row[:4] @ params["transposed"].reshape(3, 5).T
    factored = (params["factor_a"] @ params["factor_b"]) @ row[0]
    loop = jax.lax.scan(lambda h, w: (jnp.sin(h @ w), None), row[1], params["loop"])[0]
    batched = jnp.einsum("bi,bij->bj", row[:2], params["batched"])
    parts = [strided, grouped, left, transposed, factored, loop, batched, params["alone"]]
    mixed = [jnp.sin(jnp.arange(1, p.size + 1)) @ p.ravel() for p in parts]
    return jnp.tanh(jnp.stack(mixed)[:, None] + params["bias"][None, :]).sum(0)


@pytest.mark.slow
def test_gauss_newton_diagonal_of_every_kind_of_product():
    rng = np.random.default_rng(0)
    shapes = {"strided": (2, 2, 3, 2), "grouped": (2, 3, 1, 4), "left": (3, 5), "alone": (2, 3)}
    shapes |= {"transposed": (5, 3), "factor_a": (3, 2), "factor_b": (2, 5), "bias": (3,)}
    shapes |= {"loop": (2, 5, 5), "batched": (2, 5, 3), "unused": (4,)}
    params = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
    params = jax.tree.map(lambda a: 0.3 * a, params)
    images = jnp.asarray(rng.normal(size=(5, 2, 5, 6)))
    want = gauss_newton_diagonal(every_kind_of_product, cross_entropy, params, images)
    assert all(np.abs(leaf).max() > 1e-6 for name, leaf in want.items() if name != "unused")
    functions = exact_ggn_traces, exact_ggn_diagonal
    assert_both(functions, want, every_kind_of_product, params, {}, images)


@pytest.mark.parametrize("logits", [(0.3, -0.2, 1.0, 0.1), (-3.0, 40.0, 0.0), (2.0, -1.0)])
def test_softmax_factors_keep_their_digits_however_sure_the_network(logits):
    logits = np.array(logits)
    p = np.exp(logits - logits.max())
    p /= p.sum()
    rest = np.array([np.delete(p, c).sum() for c in range(len(p))])  # 1 - p, but accurate
    want = np.diag(p * rest) - np.outer(p, p) * (1 - np.eye(len(p)))
    for dtype, tol in ((jnp.float64, 1e-13), (jnp.float32, 1e-5)):
        rows = np.asarray(jax.jit(softmax_factors)(jnp.asarray(logits, dtype)), np.float64)
        assert rows.shape == (len(p) - 1, len(p))
        np.testing.assert_allclose(rows.T @ rows, want, rtol=tol)


@cache
def traces_in_one_chunk():
    case, fn = case_of("relu_mlp")
    return exact_traces(fn, case.params, {}, case.batch["x"])


@pytest.mark.slow
@settings(max_examples=6, deadline=None, derandomize=True)
@given(st.integers(1, NUM_EXAMPLES + 1), st.permutations(range(NUM_EXAMPLES)))
def test_chunks_and_the_order_of_examples_do_not_matter(chunk_size, order):
    case, fn = case_of("relu_mlp")
    images = case.batch["x"][np.array(order)]
    got = exact_traces(fn, case.params, {}, images, chunk_size=chunk_size)
    assert_close(got, traces_in_one_chunk())


def test_a_factor_on_a_layer_divides_its_trace_by_the_square():
    network, images = mlp(), jnp.asarray(tiny_dataset().train.images)
    params, stats = generic_point(network)
    fn = single(network)
    before = exact_traces(fn, params, stats, images)
    moved = dict(params)
    moved["dense1"] = jax.tree.map(lambda a: 2 * a, params["dense1"])
    moved["dense2"] = {"kernel": params["dense2"]["kernel"] / 2, "bias": params["dense2"]["bias"]}
    after = exact_traces(fn, moved, stats, images)
    np.testing.assert_allclose(after["dense1"]["kernel"], before["dense1"]["kernel"] / 4)
    np.testing.assert_allclose(after["dense2"]["kernel"], before["dense2"]["kernel"] * 4)
    np.testing.assert_allclose(after["dense3"]["kernel"], before["dense3"]["kernel"])


def test_a_trace_of_zero_does_not_round_below_zero():
    """Signals that cancel over the positions, where all activations are alike."""
    rng = np.random.default_rng(0)
    mixture = rng.normal(size=(3, 4))
    mixture -= mixture.mean(1, keepdims=True)
    fn = lambda params, stats, x: (mixture @ (x @ params["w"])).ravel()  # noqa: E731
    images = jnp.asarray(np.repeat(rng.normal(size=(50, 1, 9)), 4, axis=1))
    params = {"w": jnp.asarray(rng.normal(size=(9, 8)))}
    traces = jax.vmap(lambda x: exact_traces(fn, params, {}, x[None]))(images)["w"]
    assert np.all((traces >= 0) & (traces < 1e-12))


def intermediate_sizes(jaxpr):
    """Number of entries of everything that a program computes, at any depth."""
    for eqn in jaxpr.eqns:
        yield from (v.aval.size for v in eqn.outvars)
        for inner in core.jaxprs_in_params(eqn.params):
            yield from intermediate_sizes(inner)


@pytest.mark.slow
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_dense_layer_never_has_a_gradient_for_each_example(function):
    network, images = mlp((50, 40)), jnp.asarray(tiny_dataset(num=7).train.images)
    params, stats = generic_point(network)

    def largest(fn):
        traced = jax.make_jaxpr(lambda p, x: function(fn, p, stats, x, chunk_size=7))
        return max(intermediate_sizes(traced(params, images).jaxpr))

    def tied(params, stats, x):
        kernel = params["dense1"]["kernel"]
        return single(network)(params, stats, x) + ((x.ravel() / 255) @ kernel).sum()

    assert largest(single(network)) < 7 * 72 * 50 / 2
    assert largest(tied) >= 7 * 72 * 50  # where the gradient has to be formed, this test sees it


@pytest.mark.slow
@pytest.mark.parametrize("function", FUNCTIONS)
def test_memory_does_not_grow_with_the_number_of_examples(function):
    case, fn = case_of("relu_mlp")

    def temporary_bytes(n):
        images = jax.ShapeDtypeStruct((n, 4), jnp.float64)
        program = jax.jit(lambda p, x: function(fn, p, {}, x, chunk_size=100))
        return program.lower(case.params, images).compile().memory_analysis().temp_size_in_bytes

    few, many = temporary_bytes(10**5), temporary_bytes(4 * 10**5)
    assert many - few <= 8 * 3000  # the scan's number of each chunk
    assert many < 4 * 10**5 * 4 * 8 / 20  # a fraction of the data


def test_calls_with_the_same_network_share_one_program():
    calls, (case, _) = [], case_of("relu_mlp")

    def fn(params, stats, x):
        calls.append(x)
        return case.apply(params, {"x": x[None]})[0]

    first = exact_traces(fn, case.params, {}, case.batch["x"])
    traced = len(calls)
    second = exact_traces(fn, jax.tree.map(lambda a: 2 * a, case.params), {}, case.batch["x"])
    assert len(calls) == traced > 0
    assert first[0]["w"] != second[0]["w"]


@pytest.mark.parametrize("lowering", ["patches", "conv"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_matrix_product_runs_at_highest_precision(function, lowering):
    network, images = cnn(lowering), jnp.asarray(tiny_dataset().train.images)
    params, stats = generic_point(network, dtype=jnp.float32)
    traced = jax.make_jaxpr(lambda p, x: function(single(network), p, stats, x))
    with jax.default_matmul_precision("default"):
        precisions = dot_precisions(traced(params, images).jaxpr)
    assert len(precisions) >= 8
    assert set(precisions) == {(jax.lax.Precision.HIGHEST,) * 2}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("chunk_size", [1, 7, 600])
def test_parameters_of_low_precision_are_summed_in_float32(dtype, chunk_size):
    """Many equal terms: bfloat16 would stop growing at 256 of them, float16 at 2,048."""
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(4, 5)) / 2, dtype), "b": jnp.ones(5, dtype)}
    params["v"] = jnp.asarray(rng.normal(size=(5, 3)) / 2, dtype)
    images = jnp.asarray(rng.normal(size=(600, 4)), dtype)
    fn = lambda p, s, x: jax.nn.relu(x @ p["w"] + p["b"]) @ p["v"]  # noqa: E731
    wide, wide_images = jax.tree.map(lambda a: a.astype(jnp.float64), (params, images))
    for function in FUNCTIONS:
        want = function(fn, wide, {}, wide_images)
        got = function(fn, params, {}, images, chunk_size=chunk_size)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            assert a.dtype == jnp.float32
            np.testing.assert_allclose(a, b, rtol=0.02)
