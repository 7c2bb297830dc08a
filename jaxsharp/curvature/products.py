"""Products of curvature matrices with vectors that have the structure of the parameters.

Every matrix here is the Jacobian of a vector field on parameter space: the Hessian that of the
gradient; Gauss-Newton and Fisher matrices that of a field linear in its argument,

    field(x) = J^T B J x,    J = Jacobian of the outputs at the parameters,

where B acts on the outputs of one example at a time. So all share one way to stream over data, to
linearize once or anew, to restrict parameters and to do without forward-mode derivatives.

All functions share these arguments. `mask`, a pytree of bools like `params` or its upper part:
only the block of the chosen parameters; vectors have None in the other places (`trees.select`).
`batch`: a pytree of arrays with examples along the leading axis, or `core.Batches`, read from
the host for every product. `chunk_size`: examples at a time, None as the memory allows.
`recompute`: False linearizes once, when the operator is made, and keeps the intermediate values of
all examples; True recomputes them in every product; None keeps them if they fit. `memory`: what
fits (`core.Budget`), None that of the device; a call that is vmapped needs its `divided` share. The
`strategy` of the result says what was chosen; the numbers do not depend on it. `check`: compare two
passes over the loss first (`checks`).

They return an `Operator`: v -> A v for vectors of the structure, shapes and dtypes of the (chosen)
parameters, linear, symmetric, weighted by examples whatever the chunks. Matrix products inside run
at the "highest" precision, whatever the surroundings say: TF32 is good for two digits. Pure: they
work inside jit, vmap (over stacked `params`) and loops, `Batches` apart. In a jit of your own, pass
`params` and `batch` as arguments, as what it closes over becomes a constant of the program.

They raise ValueError, before compilation, for parameters that are not real floating point, a loss
that is not a real scalar, a mask that does not fit, a chunk_size below 1, a `batch` that cannot be
cut, and a loss that is no fixed function.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree, UInt32

from jaxsharp.core.chunks import Batches, num_examples
from jaxsharp.core.memory import Budget
from jaxsharp.core.trees import merge, select
from jaxsharp.curvature.checks import check_loss, check_outputs, check_params
from jaxsharp.curvature.likelihoods import Likelihood
from jaxsharp.curvature.linearization import derivative, jacobian_operator, linear_maps
from jaxsharp.curvature.operators import Matvec, Operator, change_product

Loss = Callable[[PyTree, PyTree], jax.Array]
Apply = Callable[[PyTree, PyTree], jax.Array]


def hessian(
    loss: Loss,
    params: PyTree,
    batch: PyTree | Batches,
    *,
    mask: PyTree | None = None,
    chunk_size: int | None = None,
    recompute: bool | None = None,
    memory: Budget | None = None,
    check: bool = True,
) -> Operator:
    """Return the product v -> H v with the Hessian H of the mean loss at `params`.

        H v = d/dt grad L(params + t v) at t = 0,    L(params) = loss(params, batch)

    `loss` returns the scalar mean over the examples of `batch`. Weight decay counts if it is part
    of `loss`. Forward over reverse; where a custom_vjp inside `loss` has no forward derivative,
    reverse over reverse, chosen while tracing.

    Cost of a product: twice the work of a gradient if linearized, three times if recomputed.
    """

    def field(params, point, chunk):
        return jax.grad(lambda x: loss(merge(x, params), chunk))(point)

    check_params(params, batch, mask, chunk_size)
    check_loss(loss, params, batch, check)
    options = {"mask": mask, "chunk_size": chunk_size, "recompute": recompute, "memory": memory}
    return jacobian_operator(field, params, batch, **options)


def ggn(
    apply: Apply,
    output_loss: Loss,
    params: PyTree,
    batch: PyTree | Batches,
    *,
    mask: PyTree | None = None,
    chunk_size: int | None = None,
    recompute: bool | None = None,
    memory: Budget | None = None,
    check: bool = True,
) -> Operator:
    """Return the product with the generalized Gauss-Newton matrix of output_loss(apply(.)).

        G v = J^T H_out J v,    J = d apply / d params,    H_out = Hessian of output_loss

    `apply(params, batch)` returns the outputs, any array with examples first, and
    `output_loss(outputs, batch)` their scalar mean loss. Positive semidefinite for a convex one.
    Reference: Schraudolph (2002), Neural Computation 14, 1723-1738.

    Cost of a product: four matrix products a layer and example for the gradient's three, and the
    forward pass once more if recomputed.
    """

    def respond(outputs, chunk):
        return derivative(lambda out: jax.grad(output_loss)(out, chunk), outputs)

    check_params(params, batch, mask, chunk_size)
    check_loss(lambda p, b: output_loss(apply(p, b), b), params, batch, check)
    field = _gauss_newton(apply, respond, mask)
    options = {"mask": mask, "chunk_size": chunk_size, "recompute": recompute, "memory": memory}
    return jacobian_operator(field, params, batch, **options)


def fisher(
    apply: Apply,
    likelihood: Likelihood,
    params: PyTree,
    batch: PyTree | Batches,
    *,
    mask: PyTree | None = None,
    chunk_size: int | None = None,
    recompute: bool | None = None,
    memory: Budget | None = None,
    check: bool = True,
) -> Operator:
    """Return the product with the Fisher matrix, the targets drawn from the model's own output.

        F v = (1/n) sum_i J_i^T E_y[s s^T] J_i v,    y ~ p(. | f_i),    f_i = output of example i,
        s = gradient of log p(y | f_i) in f_i

    The expectation is exact, by `likelihood.information` (`likelihoods`: categorical, bernoulli,
    gaussian, poisson). Targets in `batch` are not looked at. For these likelihoods, whose f are
    natural parameters, F equals the Gauss-Newton matrix of the negative log-likelihood.
    Reference: Martens (2020), JMLR 21 (146).
    """

    def respond(outputs, chunk):
        information = jax.vmap(likelihood.information)
        return lambda tangents: information(outputs, tangents) / len(outputs)

    check_params(params, batch, mask, chunk_size)
    check_outputs(apply, params, batch, check)
    field = _gauss_newton(apply, respond, mask)
    options = {"mask": mask, "chunk_size": chunk_size, "recompute": recompute, "memory": memory}
    return jacobian_operator(field, params, batch, **options)


def monte_carlo_fisher(
    apply: Apply,
    likelihood: Likelihood,
    params: PyTree,
    batch: PyTree | Batches,
    *,
    key: Key[Array, ""] | UInt32[Array, "2"],
    num_samples: int = 1,
    mask: PyTree | None = None,
    chunk_size: int | None = None,
    recompute: bool | None = None,
    memory: Budget | None = None,
    check: bool = True,
) -> Operator:
    """Return the product with the Fisher matrix, the targets sampled from the model's own output.

        F v = (1/(n S)) sum_i sum_s J_i^T g_is <g_is, J_i v>,    y_is ~ p(. | f_i),    s <= S,
        g_is = gradient of log p(y_is | f_i) in f_i

    Unbiased for `fisher` over `key`, and one fixed matrix for one key: example i draws from
    ``fold_in(key, i)``, i its place in the data, whatever the chunks. S is `num_samples`.

    Raises ValueError also for num_samples below 1.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; it must be at least 1")

    def scores(output, index):
        keys = jax.random.split(jax.random.fold_in(key, index), num_samples)
        targets = jax.vmap(likelihood.sample, (0, None))(keys, output)
        return jax.vmap(jax.grad(likelihood.log_prob), (None, 0))(output, targets)

    def respond(outputs, chunk):
        gradients = jax.lax.stop_gradient(jax.vmap(scores)(outputs, chunk[1]))

        def apply_outer_products(tangents):
            inner = jnp.einsum("ns...,n...->ns", gradients, tangents)
            return jnp.einsum("ns,ns...->n...", inner, gradients) / inner.size

        return apply_outer_products

    check_params(params, batch, mask, chunk_size)
    check_outputs(apply, params, batch, check)
    field = _gauss_newton(lambda p, numbered: apply(p, numbered[0]), respond, mask)
    options = {"mask": mask, "chunk_size": chunk_size, "recompute": recompute, "memory": memory}
    return jacobian_operator(field, params, _numbered(batch), **options)


def empirical_fisher(
    loss: Loss,
    params: PyTree,
    batch: PyTree | Batches,
    *,
    mask: PyTree | None = None,
    chunk_size: int | None = None,
    recompute: bool | None = None,
    memory: Budget | None = None,
    check: bool = True,
) -> Operator:
    """Return the product with the mean outer product of the gradients of single examples.

        E v = (1/n) sum_i g_i <g_i, v>,    g_i = gradient of the loss of example i

    The loss of an example is that of a batch with it alone; no gradient of a single example is
    formed. At the targets of `batch`, so not the Fisher matrix (Kunstner et al. 2019).
    """

    def losses(params, chunk):
        one = lambda example: loss(params, jax.tree.map(lambda leaf: leaf[None], example))  # noqa: E731
        return jax.vmap(one)(chunk)

    check_params(params, batch, mask, chunk_size)
    check_loss(loss, params, batch, check)
    field = _gauss_newton(losses, lambda out, _: lambda tangents: tangents / len(out), mask)
    options = {"mask": mask, "chunk_size": chunk_size, "recompute": recompute, "memory": memory}
    return jacobian_operator(field, params, batch, **options)


def preconditioned(matvec: Matvec, diagonal: PyTree) -> Matvec:
    """Return the product with D^(-1/2) A D^(-1/2), D the diagonal matrix of positive `diagonal`.

    Its eigenvalues are those of D^(-1) A; an eigenvector w gives the vector D^(-1/2) w of the
    latter. `diagonal` has the structure of the vectors; for an adaptive optimizer with steps
    lr D^(-1) grad, sharpness against 2/lr (Cohen et al. 2022, arXiv 2207.14484).

    Cost: that of `matvec`. Raises ValueError for entries that are not positive and finite, where
    they are known (not inside jit).
    """
    for leaf in jax.tree.leaves(diagonal):
        bad = ~((leaf > 0) & (leaf < jnp.inf))
        if not isinstance(leaf, jax.core.Tracer) and jnp.any(bad):
            raise ValueError(
                f"diagonal holds {leaf[bad][0]}; its entries must be positive and finite"
            )

    def scaled(vector):
        return jax.tree.map(lambda x, d: (x / jnp.sqrt(d)).astype(x.dtype), vector, diagonal)

    return change_product(matvec, lambda product: lambda vector: scaled(product(scaled(vector))))


def _gauss_newton(apply, respond, mask):
    """Return the field x -> J^T B J x, where B = respond(outputs, chunk) is linear."""

    def field(params, point, chunk):
        at = lambda x: apply(merge(x, params), chunk)  # noqa: E731
        outputs, push, pull = linear_maps(at, select(params, mask))
        return pull(respond(outputs, chunk)(push(point)))

    return field


def _numbered(batch):
    """Return the data with the place of each example in the whole."""
    if not isinstance(batch, Batches):
        return batch, jnp.arange(num_examples(batch))

    def start():
        first = 0
        for part in batch.start():
            size = num_examples(part)
            yield part, jnp.arange(first, first + size)
            first += size

    return Batches(start)
