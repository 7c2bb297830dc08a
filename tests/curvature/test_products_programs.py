"""Curvature products in programs: in jit, vmap and loops, and what is compiled or refused."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsharp.core import Batches, Budget, budget
from jaxsharp.core.programs import primitives
from jaxsharp.curvature import hessian
from tests.matrices import assert_close, case_of, dense_of, flat, product, random_like
from tests.references import dense_matrix, dot_precisions

pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.mark.slow
def test_batches_cannot_be_traced():
    case = case_of("tied")
    matvec = hessian(case.loss, case.params, Batches(lambda: [case.batch]))
    with pytest.raises(ValueError, match="outside"):
        jax.jit(matvec)(case.params)


@pytest.mark.slow
def test_strategy_is_visible():
    case = case_of("tied")
    args = case.loss, case.params, case.batch
    assert hessian(*args).strategy == "linearized once, 11 examples, 11 at a time"
    recomputed = hessian(*args, chunk_size=4, recompute=True)
    assert recomputed.strategy == "recomputed in every product, 11 examples, 4 at a time"
    tight = hessian(*args, memory=Budget(2000, 0, 0, vmapped=False))
    assert re.fullmatch(r"recomputed in .*, 11 examples, [1-6] at a time", tight.strategy)
    vector = random_like(case.params)
    assert_close(tight(vector), hessian(*args)(vector))


@pytest.mark.slow
def test_what_would_be_kept_grows_with_the_examples():
    case = case_of("tied")

    def keeps(copies, kept_bytes):
        batch = jax.tree.map(lambda leaf: jnp.concatenate([leaf] * copies), case.batch)
        memory = dataclasses.replace(budget(), kept_bytes=kept_bytes)
        strategy = hessian(case.loss, case.params, batch, memory=memory, check=False).strategy
        return not strategy.startswith("recomputed")

    low, high = 0, 2**20
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if keeps(1, middle) else (middle, high)
    assert keeps(2, 2 * high) and not keeps(2, 2 * high - 2)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "chunk_size"), [("tied", None), ("custom_vjp", 4)])
def test_outside_jit_and_inside_a_loop(name, chunk_size):
    case = case_of(name)
    dense = dense_of(name)
    matvec = hessian(case.loss, case.params, case.batch, chunk_size=chunk_size)
    vector = random_like(case.params)
    assert_close(matvec(vector), dense @ flat(vector))
    twice = jax.lax.fori_loop(0, 2, lambda _, v: matvec(v), vector)
    assert_close(twice, dense @ (dense @ flat(vector)))


@pytest.mark.slow
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


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("chunk_size", [None, 4])
@pytest.mark.parametrize("name", ["tied", "cnn", "custom_vjp"])
def test_every_matrix_product_runs_at_highest_precision(name, chunk_size, recompute):
    """Also if the product is first traced inside a loop, after `hessian` returned (pitfall 9)."""
    case = case_of(name)

    def loop(params, batch):
        options = {"chunk_size": chunk_size, "recompute": recompute}
        matvec = hessian(case.loss, params, batch, **options)
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


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
def test_chunks_are_the_turns_of_a_loop(recompute):
    case = case_of("tied")
    for chunk_size, looped in ((None, False), (11, False), (4, True)):
        options = {"chunk_size": chunk_size, "recompute": recompute}
        matvec = hessian(case.loss, case.params, case.batch, **options)
        program = jax.make_jaxpr(matvec)(case.params).jaxpr
        assert ("scan" in primitives(program)) == looped


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [None, 4])
def test_compiled_parts_hold_no_data(chunk_size):
    """A data set that became a constant would cost minutes of compilation (pitfall 10)."""
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
