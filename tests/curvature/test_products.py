"""Hessian products in float64: every case against its dense matrix, masks, chunks and batches."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from jaxsharp.core import Batches
from jaxsharp.core.trees import select
from jaxsharp.curvature import categorical, ggn, hessian, monte_carlo_fisher, preconditioned
from tests.cases import CASES, NUM_CLASSES, NUM_EXAMPLES, cross_entropy, init_dense, mlp, normal
from tests.matrices import (
    KEY,
    MODES,
    TOL,
    assert_close,
    case_of,
    dense_of,
    flat,
    matrix,
    product,
    random_like,
)
from tests.references import dense_ggn, dense_hessian, dense_matrix, example

pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CASES)
def test_equals_the_dense_hessian(name, mode):
    """Also where a custom_vjp rules out forward mode over reverse mode (pitfall 6)."""
    case, options = case_of(name), MODES[mode]
    check = options["recompute"]  # of the same loss, and so in one mode
    dense = dense_of(name)
    assert np.abs(dense).max() > 0.1

    @jax.jit
    def rows(params, batch):
        return matrix(hessian(case.loss, params, batch, check=check, **options), params)

    result = rows(case.params, case.batch).T
    np.testing.assert_allclose(result, dense, rtol=TOL, atol=TOL)
    np.testing.assert_allclose(result, result.T, rtol=TOL, atol=TOL)


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
def test_mask_gives_the_block_of_the_chosen_parameters(recompute):
    case = case_of("cnn")
    mask = {"filters": True, "bias": False, "head": {"w": False, "b": True}}
    chosen = select(case.params, mask)
    keep, _ = ravel_pytree(jax.tree.map(lambda m, p: jnp.full(p.shape, m), mask, case.params))
    options = {"mask": mask, "chunk_size": 4, "recompute": recompute}
    for operator, dense in (
        (hessian(case.loss, case.params, case.batch, **options), dense_of("cnn")),
        (
            ggn(case.apply, cross_entropy, case.params, case.batch, **options),
            dense_ggn(case.apply, cross_entropy, case.params, case.batch),
        ),
    ):
        block = np.asarray(dense)[np.ix_(keep, keep)]
        np.testing.assert_allclose(
            jax.jit(lambda like, op=operator: matrix(op, like))(chosen), block, rtol=TOL, atol=TOL
        )


def test_mask_may_name_a_whole_layer():
    case = case_of("cnn")
    mask = {"filters": False, "bias": False, "head": True}
    result = hessian(case.loss, case.params, case.batch, mask=mask)(select(case.params, mask))
    assert result["filters"] is None
    assert result["head"]["w"].shape == case.params["head"]["w"].shape


@pytest.mark.slow
def test_batches_from_the_host_give_the_same_numbers():
    """Unequal batches, so that a mean over batches would be wrong; with mask and with chunks."""
    case = case_of("tied")
    cuts = [0, 5, 7, NUM_EXAMPLES]
    parts = [jax.tree.map(lambda x, i=i: x[cuts[i] : cuts[i + 1]], case.batch) for i in range(3)]
    batches, vector = Batches(lambda: iter(parts)), random_like(case.params)
    there = hessian(case.loss, case.params, batches, chunk_size=2)
    assert there.on_host
    assert_close(there(vector), dense_of("tied") @ flat(vector))
    sampled = partial(monte_carlo_fisher, case.apply, categorical, case.params, key=KEY)
    assert_close(sampled(batches)(vector), sampled(case.batch)(vector))


@pytest.mark.slow
def test_preconditioned_product():
    case = case_of("tied")
    diagonal = jax.tree.map(lambda x: jnp.exp(x), random_like(case.params, 3))
    matvec = preconditioned(hessian(case.loss, case.params, case.batch), diagonal)
    root = 1 / np.sqrt(flat(diagonal))
    expected = root[:, None] * np.asarray(dense_of("tied")) * root
    result = dense_matrix(jax.jit(matvec), case.params)
    np.testing.assert_allclose(result, expected, rtol=TOL, atol=TOL)
    assert matvec.strategy.startswith("linearized once")
    for entry in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match=f"diagonal holds {entry}"):
            preconditioned(matvec, jnp.array([1.0, entry]))
    for leaf in (2.0, 3, True, jnp.array([1j])):
        with pytest.raises(ValueError, match=r"diagonal holds .*must be arrays of reals") as error:
            preconditioned(matvec, jax.tree.map(lambda d, leaf=leaf: leaf, diagonal))
        assert "\n" not in str(error.value)
    for wrong in (jax.tree.map(lambda d: d[:1], diagonal), list(jax.tree.leaves(diagonal))):
        with pytest.raises(ValueError, match=r"diagonal has the shapes .*the vector's") as error:
            preconditioned(matvec, wrong)(case.params)
        assert "\n" not in str(error.value)


@pytest.mark.slow
def test_is_linear():
    case = case_of("tanh_mlp")
    matvec = jax.jit(hessian(case.loss, case.params, case.batch))
    u, v = random_like(case.params, 1), random_like(case.params, 2)
    combined = jax.tree.map(lambda a, b: 2 * a - 3 * b, u, v)
    assert_close(matvec(combined), 2 * flat(matvec(u)) - 3 * flat(matvec(v)))


def test_a_tiny_vector_gives_a_tiny_product():
    """As differences of gradients with a fixed step would not (pitfall 17)."""
    case = case_of("tanh_mlp")
    vector = random_like(case.params)
    tiny = jax.tree.map(lambda x: 1e-30 * x, vector)
    np.testing.assert_allclose(
        flat(product(case, tiny)), 1e-30 * flat(product(case, vector)), rtol=1e-9, atol=1e-44
    )


@pytest.mark.slow
def test_weight_decay_counts_only_as_part_of_the_loss():
    """It adds a multiple of the identity to H (pitfall 5)."""
    case, decay = case_of("tied"), 0.3
    vector = random_like(case.params)

    def decayed(params, batch):
        return case.loss(params, batch) + decay / 2 * optax.tree.norm(params, squared=True)

    result = hessian(decayed, case.params, case.batch, chunk_size=4)(vector)
    assert_close(result, flat(product(case, vector)) + decay * flat(vector))


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


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(1, 4)] * 2),
    n=st.integers(1, 9),
    chunk_size=st.integers(1, 10),
    recompute=st.booleans(),
    seed=st.integers(0, 99),
)
def test_shapes_chunks_and_order_of_examples_do_not_matter(sizes, n, chunk_size, recompute, seed):
    """Any rest in the last chunk (pitfall 3), against the dense Hessian of the data in order."""
    rng = np.random.default_rng(seed)
    features, hidden = sizes
    params = [init_dense(rng, features, hidden), init_dense(rng, hidden, NUM_CLASSES)]
    batch = {"x": normal(rng, n, features), "y": jnp.asarray(rng.integers(0, NUM_CLASSES, n))}

    def loss(params, batch):
        return cross_entropy(mlp(jnp.tanh)(params, batch["x"]), batch)

    order = rng.permutation(n)
    shuffled = jax.tree.map(lambda leaf: leaf[order], batch)
    vector = random_like(params, seed)
    matvec = hessian(loss, params, shuffled, chunk_size=chunk_size, recompute=recompute)
    assert_close(matvec(vector), dense_hessian(loss, params, batch) @ flat(vector))


@pytest.mark.slow
def test_every_example_has_the_same_weight():
    """A mean over examples, not over batches, nor a sum (pitfalls 3 and 4)."""
    case = case_of("tied")
    vector = random_like(case.params)
    single = [flat(product(case, vector, 1, example(case.batch, i))) for i in range(NUM_EXAMPLES)]
    assert_close(product(case, vector, 4), np.mean(single, axis=0))
