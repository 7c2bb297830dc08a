"""Gauss-Newton and Fisher products against dense matrices, and against each other."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxsharp.core.keys import stream
from jaxsharp.curvature import (
    bernoulli,
    categorical,
    empirical_fisher,
    fisher,
    gaussian,
    ggn,
    hessian,
    monte_carlo_fisher,
    poisson,
)
from tests.cases import CASES, NUM_CLASSES, NUM_EXAMPLES
from tests.matrices import (
    KEY,
    MODES,
    TOL,
    assert_close,
    case_of,
    dense_of,
    flat,
    matrix,
    random_like,
)
from tests.references import dense_ggn, mean_outer_product

pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_gauss_newton_and_fisher_equal_their_dense_matrices(name):
    """Streamed for some, linearized for the others; three labels make expectations finite sums.

    The check of the loss is the larger part of a program: one operator has it, each in its turn.
    """
    case, turn = case_of(name), CASES.index(name)
    mode = MODES[["linearized_in_chunks", "recomputed_in_chunks"][turn % 2]]
    modes = [mode | {"check": i == turn % 4} for i in range(4)]
    args = case.params, case.batch
    sampled = partial(monte_carlo_fisher, key=KEY, num_samples=2)

    @jax.jit
    def matrices(params, batch):
        operators = (
            ggn(case.apply, case.output_loss, params, batch, **modes[0]),
            fisher(case.apply, categorical, params, batch, **modes[1]),
            empirical_fisher(case.loss, params, batch, **modes[2]),
            sampled(case.apply, categorical, params, batch, **modes[3]),
        )
        return [matrix(operator, params) for operator in operators]

    @jax.jit
    def scores(params, batch):
        """Gradients of the loss of each example, and of log p of each possible label."""
        flat, unflatten = ravel_pytree(params)
        log_p = lambda v, b: jax.nn.log_softmax(case.apply(unflatten(v), b))[0]  # noqa: E731
        loss = lambda v, b: case.plain_loss(unflatten(v), b)  # noqa: E731
        alone = jax.tree.map(lambda leaf: leaf[:, None], batch)  # batches of one example each
        each = partial(jax.vmap, in_axes=(None, 0))
        of_loss, of_label = (each(jax.jacrev(f))(flat, alone) for f in (loss, log_p))
        return of_loss, of_label, jax.nn.softmax(case.apply(params, batch))

    of_loss, of_label, p = scores(*args)
    drawn = [
        categorical.sample(key, logits)
        for i, logits in enumerate(case.apply(*args))
        for key in jax.random.split(jax.random.fold_in(stream(KEY, "monte_carlo_fisher"), i), 2)
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


@pytest.mark.slow
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


def test_no_samples_are_refused():
    case = case_of("tied")
    with pytest.raises(ValueError, match=r"num_samples is 0; it must be at least 1"):
        monte_carlo_fisher(case.apply, categorical, case.params, case.batch, key=KEY, num_samples=0)


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
