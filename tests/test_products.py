"""Curvature products against dense matrices in float64, on every case."""

import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from jaxsharp import memory
from jaxsharp.chunks import Batches
from jaxsharp.likelihoods import bernoulli, categorical, gaussian, poisson
from jaxsharp.products import (
    empirical_fisher,
    fisher,
    ggn,
    hessian,
    monte_carlo_fisher,
    preconditioned,
)
from jaxsharp.trees import select
from tests.cases import (
    CASES,
    NUM_CLASSES,
    NUM_EXAMPLES,
    cross_entropy,
    init_dense,
    make_case,
    mlp,
    normal,
)
from tests.references import (
    dense_ggn,
    dense_hessian,
    dense_matrix,
    dot_precisions,
    example,
    mean_outer_product,
)

# Rounding of sums of a hundred terms of size one in float64.
TOL = 1e-12
KEY = jax.random.key(5)


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
    return hessian(loss, params, batch, chunk_size=chunk_size, recompute=True)(vector)


def matrix(matvec, like):
    """Return the matrix of a product, all rows at once; to be called inside jit."""
    vector, unflatten = ravel_pytree(like)
    return jax.vmap(lambda v: ravel_pytree(matvec(unflatten(v)))[0])(jnp.eye(vector.size))


def product(case, vector, chunk_size=None, batch=None):
    return compiled(
        case.loss, case.params, case.batch if batch is None else batch, vector, chunk_size
    )


MODES = {
    "linearized": {"recompute": False},
    "linearized_in_chunks": {"recompute": False, "chunk_size": 4},
    "recomputed_in_chunks": {"recompute": True, "chunk_size": 4},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CASES)
def test_equals_the_dense_hessian(name, mode):
    """Also where a custom_vjp rules out forward mode over reverse mode (pitfall 6)."""
    case = case_of(name)
    dense = dense_of(name)
    assert np.abs(dense).max() > 0.1

    @jax.jit
    def rows(params, batch):
        return matrix(hessian(case.loss, params, batch, **MODES[mode]), params)

    result = rows(case.params, case.batch).T
    np.testing.assert_allclose(result, dense, rtol=TOL, atol=TOL)
    np.testing.assert_allclose(result, result.T, rtol=TOL, atol=TOL)


@pytest.mark.parametrize("name", CASES)
def test_gauss_newton_and_fisher_equal_their_dense_matrices(name):
    """Streamed for some, linearized for the others; three labels make expectations finite sums."""
    case = case_of(name)
    mode = MODES[["linearized_in_chunks", "recomputed_in_chunks"][CASES.index(name) % 2]]
    args = case.params, case.batch

    @jax.jit
    def matrices(params, batch):
        operators = (
            ggn(case.apply, case.output_loss, params, batch, **mode),
            fisher(case.apply, categorical, params, batch, **mode),
            empirical_fisher(case.loss, params, batch, **mode),
            monte_carlo_fisher(
                case.apply, categorical, params, batch, key=KEY, num_samples=2, **mode
            ),
        )
        return [matrix(operator, params) for operator in operators]

    @jax.jit
    def scores(params, batch):
        """Gradients of the loss of each example, and of log p of each possible label."""
        label = lambda p, b, y: jax.nn.log_softmax(case.apply(p, b))[0, y]  # noqa: E731
        one = [example(batch, i) for i in range(NUM_EXAMPLES)]
        of_loss = [ravel_pytree(jax.grad(case.plain_loss)(params, b))[0] for b in one]
        of_label = [
            [ravel_pytree(jax.grad(label)(params, b, y))[0] for y in range(NUM_CLASSES)]
            for b in one
        ]
        probabilities = jax.nn.softmax(case.apply(params, batch))
        return jnp.stack(of_loss), jnp.array(of_label), probabilities

    of_loss, of_label, p = scores(*args)
    drawn = [
        jax.random.categorical(key, logits)
        for i, logits in enumerate(case.apply(*args))
        for key in jax.random.split(jax.random.fold_in(KEY, i), 2)
    ]
    expected = (
        dense_ggn(case.apply, case.plain_output_loss, *args),
        jnp.einsum("ny,nyp,nyq->pq", p, of_label, of_label) / NUM_EXAMPLES,
        mean_outer_product(of_loss),
        mean_outer_product(of_label[jnp.arange(2 * NUM_EXAMPLES) // 2, jnp.array(drawn)]),
    )
    for result, dense in zip(matrices(*args), expected, strict=True):
        assert np.abs(dense).max() > 0.01
        np.testing.assert_allclose(result, dense, rtol=TOL, atol=TOL)


def test_fisher_is_the_gauss_newton_matrix_of_the_negative_log_likelihood():
    case = case_of("tanh_mlp")
    vector = random_like(case.params)
    for likelihood in (categorical, bernoulli, gaussian, poisson):
        targets = jnp.eye(NUM_CLASSES)[case.batch["y"]]
        batch = case.batch | ({} if likelihood is categorical else {"y": targets})

        def loss(outputs, batch, likelihood=likelihood):
            return -jnp.mean(jax.vmap(likelihood.log_prob)(outputs, batch["y"]))

        exact = fisher(case.apply, likelihood, case.params, batch)(vector)
        assert_close(exact, ggn(case.apply, loss, case.params, batch)(vector))


def test_sampled_fisher_is_unbiased_and_one_matrix_for_one_key():
    case = case_of("tied")
    vector = random_like(case.params)

    @partial(jax.jit, static_argnums=1)
    @partial(jax.vmap, in_axes=(0, None))
    def sampled(key, likelihood):
        matvec = monte_carlo_fisher(case.apply, likelihood, case.params, case.batch, key=key)
        return ravel_pytree(matvec(vector))[0]

    keys = jax.random.split(KEY, 1000)
    for likelihood in (categorical, bernoulli, gaussian, poisson):
        exact = flat(fisher(case.apply, likelihood, case.params, case.batch)(vector))
        draws = np.asarray(sampled(keys, likelihood))
        stderr = draws.std(axis=0, ddof=1) / np.sqrt(len(keys))
        # 23 numbers for each of four distributions: 5 standard errors are never reached by chance.
        assert np.all(np.abs(draws.mean(axis=0) - exact) < 5 * stderr)
        assert np.all(stderr < 0.2 * np.abs(exact).max())


def test_linear_network_with_squared_error_has_known_matrices():
    """H = G = 2 X^T X / n for one output; for its Fisher matrix, X^T X / n."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((NUM_EXAMPLES, 4)))
    vector = jnp.arange(4.0)
    apply = lambda w, batch: (batch @ w)[:, None]  # noqa: E731
    output_loss = lambda out, batch: jnp.mean(jnp.square(out - 1))  # noqa: E731
    gram = x.T @ x / NUM_EXAMPLES @ vector
    assert_close(ggn(apply, output_loss, vector, x)(vector), 2 * gram)
    assert_close(hessian(lambda w, b: output_loss(apply(w, b), b), vector, x)(vector), 2 * gram)
    assert_close(fisher(apply, gaussian, vector, x)(vector), gram)


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


def test_batches_cannot_be_traced():
    case = case_of("tied")
    matvec = hessian(case.loss, case.params, Batches(lambda: [case.batch]))
    with pytest.raises(ValueError, match="outside"):
        jax.jit(matvec)(case.params)


def test_strategy_is_visible(monkeypatch):
    case = case_of("tied")
    args = case.loss, case.params, case.batch
    assert hessian(*args).strategy == "linearized once, 11 examples, 11 at a time"
    recomputed = hessian(*args, chunk_size=4, recompute=True)
    assert recomputed.strategy == "recomputed in every product, 11 examples, 4 at a time"
    monkeypatch.setattr(memory, "KEPT_SHARE", 1e-12)
    monkeypatch.setitem(memory.CHUNK_BYTES, "cpu", 2000)
    tight = hessian(*args)
    assert re.fullmatch(r"recomputed in .*, 11 examples, [1-6] at a time", tight.strategy)
    vector = random_like(case.params)
    assert_close(tight(vector), hessian(*args)(vector))


def test_preconditioned_product():
    case = case_of("tied")
    diagonal = jax.tree.map(lambda x: jnp.exp(x), random_like(case.params, 3))
    matvec = preconditioned(hessian(case.loss, case.params, case.batch), diagonal)
    root = 1 / np.sqrt(flat(diagonal))
    expected = root[:, None] * np.asarray(dense_of("tied")) * root
    result = dense_matrix(jax.jit(matvec), case.params)
    np.testing.assert_allclose(result, expected, rtol=TOL, atol=TOL)
    assert matvec.strategy.startswith("linearized once")
    with pytest.raises(ValueError, match=r"diagonal holds 0\.0"):
        preconditioned(matvec, jnp.zeros(3))


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


def test_a_tiny_vector_gives_a_tiny_product():
    """As differences of gradients with a fixed step would not (pitfall 17)."""
    case = case_of("tanh_mlp")
    vector = random_like(case.params)
    tiny = jax.tree.map(lambda x: 1e-30 * x, vector)
    np.testing.assert_allclose(
        flat(product(case, tiny)), 1e-30 * flat(product(case, vector)), rtol=1e-9, atol=1e-44
    )


def test_weight_decay_counts_only_as_part_of_the_loss():
    """It adds a multiple of the identity to H (pitfall 5)."""
    case, decay = case_of("tied"), 0.3
    vector = random_like(case.params)

    def decayed(params, batch):
        return case.loss(params, batch) + decay / 2 * optax.tree.norm(params, squared=True)

    result = hessian(decayed, case.params, case.batch, chunk_size=4)(vector)
    assert_close(result, flat(product(case, vector)) + decay * flat(vector))


def test_hessian_and_gauss_newton_agree_on_the_diagonal_blocks_of_relu_networks_alone():
    """Off the diagonal they differ, and for tanh everywhere (pitfall 7)."""
    largest = {}
    for name in ("relu_mlp", "tanh_mlp"):
        case = case_of(name)
        dense = dense_ggn(case.apply, case.output_loss, case.params, case.batch)
        difference = np.abs(np.asarray(dense_of(name)) - dense)
        leaf = np.repeat(range(6), [leaf.size for leaf in jax.tree.leaves(case.params)])
        same = leaf[:, None] == leaf
        largest[name] = difference[same].max(), difference[~same].max()
    assert largest["relu_mlp"][0] < 1e-13 < 0.01 < largest["relu_mlp"][1]
    assert min(largest["tanh_mlp"]) > 0.01


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


def test_every_example_has_the_same_weight():
    """A mean over examples, not over batches, nor a sum (pitfalls 3 and 4)."""
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
    """Also if the product is first traced inside a loop, after `hessian` returned (pitfall 9)."""
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
