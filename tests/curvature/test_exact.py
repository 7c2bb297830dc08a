"""Exact diagonals and group traces against dense Hessians and Gauss-Newton matrices, in float64."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsharp.curvature import (
    StructureError,
    exact_ggn_diagonal,
    exact_ggn_traces,
    exact_traces,
    softmax_factors,
)
from tests.cases import CASES, NUM_EXAMPLES, cross_entropy
from tests.curvature.qualified import (
    FUNCTIONS,
    LOSSES,
    QUALIFIED,
    assert_both,
    assert_close,
    case_of,
    dense_diagonal,
    gauss_newton_diagonal,
    single,
)
from tests.tinynets import cnn, generic_point, mlp, tiny_dataset

pytestmark = pytest.mark.usefixtures("double_precision")


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


@pytest.mark.slow
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
