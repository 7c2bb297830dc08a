"""What the programs of exact traces hold, compute and share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from jaxsharp.curvature import (
    exact_traces,
)
from tests.curvature.qualified import FUNCTIONS, case_of, single
from tests.references import dot_precisions
from tests.tinynets import cnn, generic_point, mlp, tiny_dataset

pytestmark = pytest.mark.usefixtures("double_precision")


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


@pytest.mark.slow
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
