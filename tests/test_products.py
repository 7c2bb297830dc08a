"""Hessian products against dense Hessians in float64, on every case."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from jaxsharp.products import hessian
from tests.cases import CASES, NUM_EXAMPLES, make_case
from tests.references import dense_hessian, dense_matrix, dot_precisions, example

# Rounding of sums of a hundred terms of size one in float64.
TOL = 1e-12


@pytest.fixture(scope="module", autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def random_like(tree, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape)), tree)


def flat(tree):
    return np.asarray(ravel_pytree(tree)[0])


def assert_close(a, b, tol=TOL):
    np.testing.assert_allclose(flat(a), flat(b), rtol=tol, atol=tol)


case_of = cache(make_case)


@cache
def dense_of(name):
    case = case_of(name)
    return dense_hessian(case.plain_loss, case.params, case.batch)


@partial(jax.jit, static_argnames=("loss", "chunk_size"))
def compiled(loss, params, batch, vector, chunk_size):
    """The product as a user would write it, with everything as an argument."""
    return hessian(loss, params, batch, chunk_size=chunk_size)(vector)


def product(case, vector, chunk_size=None, batch=None):
    return compiled(
        case.loss, case.params, case.batch if batch is None else batch, vector, chunk_size
    )


@pytest.mark.parametrize("chunk_size", [None, 4])
@pytest.mark.parametrize("name", CASES)
def test_equals_the_dense_hessian(name, chunk_size):
    case = case_of(name)
    dense = dense_of(name)
    assert np.abs(dense).max() > 0.1

    @jax.jit
    def rows(params, batch):
        matvec = hessian(case.loss, params, batch, chunk_size=chunk_size)
        vector, unflatten = ravel_pytree(params)
        return jax.vmap(lambda v: ravel_pytree(matvec(unflatten(v)))[0])(jnp.eye(vector.size))

    result = rows(case.params, case.batch).T
    np.testing.assert_allclose(result, dense, rtol=TOL, atol=TOL)
    np.testing.assert_allclose(result, result.T, rtol=TOL, atol=TOL)


@pytest.mark.parametrize(("name", "chunk_size"), [("tied", None), ("custom_vjp", 4)])
def test_outside_jit_and_inside_a_loop(name, chunk_size):
    case = case_of(name)
    dense = dense_of(name)
    matvec = hessian(case.loss, case.params, case.batch, chunk_size=chunk_size)
    vector = random_like(case.params)
    assert_close(matvec(vector), dense @ flat(vector))
    twice = jax.lax.fori_loop(0, 2, lambda _, v: matvec(v), vector)
    assert_close(twice, dense @ (dense @ flat(vector)))


def test_is_linear():
    case = case_of("tanh_mlp")
    matvec = jax.jit(hessian(case.loss, case.params, case.batch))
    u, v = random_like(case.params, 1), random_like(case.params, 2)
    combined = jax.tree.map(lambda a, b: 2 * a - 3 * b, u, v)
    assert_close(matvec(combined), 2 * flat(matvec(u)) - 3 * flat(matvec(v)))


def test_matches_differences_of_gradients():
    """Independent of second derivatives; accurate to the square of the step."""
    case = case_of("tanh_mlp")
    vector, step = random_like(case.params), 1e-4

    @jax.jit
    def gradient(scale):
        params = jax.tree.map(lambda p, v: p + scale * v, case.params, vector)
        return ravel_pytree(jax.grad(case.loss)(params, case.batch))[0]

    difference = (gradient(step) - gradient(-step)) / (2 * step)
    assert_close(product(case, vector), difference, tol=1e-6)


@settings(max_examples=3, deadline=None)
@given(chunk_size=st.integers(1, NUM_EXAMPLES))
def test_chunks_do_not_matter(chunk_size):
    case = case_of("tied")
    vector = random_like(case.params)
    assert_close(product(case, vector, chunk_size), product(case, vector))


def test_order_of_examples_does_not_matter():
    case = case_of("tied")
    vector = random_like(case.params)
    order = np.random.default_rng(0).permutation(NUM_EXAMPLES)
    shuffled = jax.tree.map(lambda leaf: leaf[order], case.batch)
    assert_close(product(case, vector, 4, shuffled), product(case, vector, 4))


def test_every_example_has_the_same_weight():
    case = case_of("tied")
    vector = random_like(case.params)
    single = [flat(product(case, vector, 1, example(case.batch, i))) for i in range(NUM_EXAMPLES)]
    assert_close(product(case, vector, 4), np.mean(single, axis=0))


@pytest.mark.parametrize(("name", "chunk_size"), [("tied", 4), ("custom_vjp", None)])
def test_vmap_over_models_equals_one_by_one(name, chunk_size):
    case = case_of(name)
    models = [random_like(case.params, seed) for seed in range(3)]
    vectors = [random_like(case.params, 10 + seed) for seed in range(3)]
    stack = lambda trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)  # noqa: E731

    @jax.jit
    def together(models, batch, vectors):
        one = lambda p, v: hessian(case.loss, p, batch, chunk_size=chunk_size)(v)  # noqa: E731
        return jax.vmap(one)(models, vectors)

    result = together(stack(models), case.batch, stack(vectors))
    for index, (params, vector) in enumerate(zip(models, vectors, strict=True)):
        one = jax.tree.map(lambda leaf, i=index: leaf[i], result)
        assert_close(one, product(case._replace(params=params), vector, chunk_size))


def test_keeps_structure_shapes_and_mixed_dtypes():
    params = {"a": jnp.ones(2, jnp.float32), "b": (jnp.ones((), jnp.float64), [])}
    matvec = hessian(lambda p, _: jnp.sum(p["a"] ** 3) * p["b"][0], params, None)
    result = matvec(params)
    assert jax.tree.structure(result) == jax.tree.structure(params)
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(result)] == [((2,), "f4"), ((), "f8")]
    dense = dense_matrix(matvec, params)
    np.testing.assert_allclose(dense, [[6, 0, 3], [0, 6, 3], [3, 3, 0]], rtol=1e-6)


@pytest.mark.parametrize("chunk_size", [None, 4])
@pytest.mark.parametrize("name", ["tied", "cnn", "custom_vjp"])
def test_every_matrix_product_runs_at_highest_precision(name, chunk_size):
    """Also where the product is first traced inside a loop, long after `hessian` returned."""
    case = case_of(name)

    def loop(params, batch):
        matvec = hessian(case.loss, params, batch, chunk_size=chunk_size)
        return jax.lax.while_loop(lambda v: flat_sum(v) > 0, matvec, params)

    def flat_sum(tree):
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(tree))

    with jax.default_matmul_precision("default"):
        jaxpr = jax.make_jaxpr(loop)(case.params, case.batch).jaxpr
    precisions = dot_precisions(jaxpr)
    assert len(precisions) >= 4
    assert set(precisions) == {(jax.lax.Precision.HIGHEST,) * 2}


def test_linearized_product_does_not_repeat_the_forward_pass():
    case = case_of("tanh_mlp")
    matvec = hessian(case.loss, case.params, case.batch)
    assert "tanh" not in str(jax.make_jaxpr(matvec)(case.params))


@pytest.mark.parametrize("chunk_size", [None, 4])
def test_compiled_parts_hold_no_data(chunk_size):
    """A data set that became a constant of a program would cost minutes of compilation."""
    case = case_of("tanh_mlp")
    matvec = hessian(case.loss, case.params, case.batch, chunk_size=chunk_size)
    parts = [eqn.params["jaxpr"] for eqn in jax.make_jaxpr(matvec)(case.params).jaxpr.eqns]
    assert parts
    assert all(jnp.size(constant) == 1 for part in parts for constant in part.consts)


def quadratic(params, batch):
    return jnp.mean(batch @ params) ** 2


@pytest.mark.parametrize(
    ("loss", "params", "batch", "chunk_size", "message"),
    [
        (quadratic, np.ones(3, np.int32), np.ones((4, 3)), None, "int32"),
        (quadratic, np.ones(3, np.complex128), np.ones((4, 3)), None, "complex128"),
        (quadratic, np.zeros(3, jax.dtypes.float0), np.ones((4, 3)), None, "float0"),
        (quadratic, {}, np.ones((4, 3)), None, "params are empty"),
        (lambda p, b: b @ p, np.ones(3), np.ones((4, 3)), None, "scalar"),
        (lambda p, b: (quadratic(p, b), b), np.ones(3), np.ones((4, 3)), None, "scalar"),
        (quadratic, np.ones(3), np.ones((4, 3)), 0, "chunk_size is 0"),
        (quadratic, np.ones(3), (np.ones((4, 3)), np.ones(3)), 2, r"lengths \[3, 4\]"),
    ],
)
def test_bad_arguments_give_one_line(loss, params, batch, chunk_size, message):
    with pytest.raises(ValueError, match=message) as error:
        hessian(loss, params, batch, chunk_size=chunk_size)
    assert "\n" not in str(error.value)
