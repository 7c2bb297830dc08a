"""Products of curvature matrices with vectors that have the structure of the parameters.

Every matrix here is the Jacobian of a vector field on parameter space: the Hessian that of the
gradient; Gauss-Newton and Fisher matrices that of a field linear in its argument,

    field(x) = J^T B J x,    J = Jacobian of the outputs at the parameters,

where B acts on the outputs of one example at a time. So all share one way to stream over data, to
linearize once or anew, to restrict parameters and to do without forward-mode derivatives.

All functions share these arguments. `mask`, a pytree of bools like `params` or its upper part:
only the block of the chosen parameters; vectors have None in the other places (`trees.select`).
`batch`: a pytree of arrays with examples along the leading axis, or `core.Batches`, read from
the host for every product. `chunk_size`: examples at a time, None as the memory allows, "whole"
all at once, undivided. `weights`, where examples do not count alike: `weights(batch)` returns one
number for each example, say its unmasked tokens. Then `loss` (and `output_loss`) returns one loss
for each example, the matrix is that of sum_i w_i loss_i / sum_i w_i over all data, and a Fisher
matrix weighs its terms in the same way.
`recompute`: False linearizes once, when the operator is made, and keeps the intermediate values of
all examples; True recomputes them in every product; None keeps them if they fit. `memory`: what
fits (`core.Budget`), None that of the device; a call that is vmapped needs its `divided` share. The
`strategy` of the result says what was chosen; the numbers do not depend on it.
`check`: that the loss is a fixed function (`checks`) and, before data are cut into chunks or
batches, that it is a mean over examples: value and gradient of at most 600 examples against those
of unequal parts (`core.additivity`), less work than two gradients over a thousand. An undivided
batch need be no mean over examples. Inside jit and vmap, where values are not known, nothing can be
raised: the program makes the comparison and the product is NaN where it fails. With False nothing
is compared: you vouch for both, and data are cut all the same.

Parameters and outputs in float16 and bfloat16 are worked on in float32, products rounded to the
dtypes of the parameters; a loss must return its mean in float32 or float64.

They return an `Operator`: v -> A v for vectors of the structure, shapes and dtypes of the (chosen)
parameters, linear, symmetric, weighted by examples whatever the chunks. Matrix products inside run
at "highest" precision, without transfer guards and strict promotion, whatever the surroundings say.
Pure: they work inside jit, vmap (over stacked `params`) and loops, `Batches` apart. In your own jit
pass `params` and `batch` as arguments: what it closes over becomes a constant of the program.

Convolutions on the CPU are taken as matrix products (`core.convolutions`), equal to rounding, as
XLA runs them slowly inside loops.

They raise ValueError, before the product is compiled, for parameters that are not real floating
point, a loss that is not a real scalar in 32 bits or more, a mask or weights that do not fit, a
chunk_size below 1, a `batch` that cannot be cut, a loss that is no fixed function or is cut and no
mean over examples.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree, UInt32

from jaxsharp.core.chunks import Batches, numbered, weighted, weighted_loss
from jaxsharp.core.convolutions import fast_in_loops
from jaxsharp.core.keys import stream
from jaxsharp.core.memory import Budget
from jaxsharp.core.programs import own_settings
from jaxsharp.core.trees import merge, widen
from jaxsharp.curvature.checks import check_loss, check_outputs, check_params
from jaxsharp.curvature.likelihoods import Likelihood
from jaxsharp.curvature.linearization import derivative, gauss_newton_field, jacobian_operator
from jaxsharp.curvature.operators import Operator

Loss = Callable[[PyTree, PyTree], jax.Array]
Apply = Callable[[PyTree, PyTree], jax.Array]
Weights = Callable[[PyTree], jax.Array]


@own_settings()
def hessian(
    loss: Loss,
    params: PyTree,
    batch: PyTree | Batches,
    *,
    mask: PyTree | None = None,
    weights: Weights | None = None,
    chunk_size: int | str | None = None,
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
    check_params(params, batch, mask, chunk_size)
    loss = fast_in_loops(loss)
    if weights is not None:
        loss, batch = weighted_loss(loss), weighted(batch, weights)

    def field(params, point, chunk):
        return jax.grad(lambda x: loss(merge(x, params), chunk))(point)

    additivity = check_loss(loss, params, batch, mask, chunk_size, check)
    return jacobian_operator(field, params, batch, mask, chunk_size, recompute, memory, additivity)


@own_settings()
def ggn(
    apply: Apply,
    output_loss: Loss,
    params: PyTree,
    batch: PyTree | Batches,
    *,
    mask: PyTree | None = None,
    weights: Weights | None = None,
    chunk_size: int | str | None = None,
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
    check_params(params, batch, mask, chunk_size)
    apply = fast_in_loops(apply)
    if weights is not None:
        output_loss, apply = weighted_loss(output_loss), _of_examples(apply)
        batch = weighted(batch, weights)

    def respond(outputs, chunk):
        return derivative(lambda out: jax.grad(output_loss)(out, chunk), outputs)

    loss = lambda p, b: output_loss(widen(apply(p, b)), b)  # noqa: E731
    additivity = check_loss(loss, params, batch, mask, chunk_size, check, apply=apply)
    field = gauss_newton_field(apply, respond, mask)
    return jacobian_operator(field, params, batch, mask, chunk_size, recompute, memory, additivity)


@own_settings()
def fisher(
    apply: Apply,
    likelihood: Likelihood,
    params: PyTree,
    batch: PyTree | Batches,
    *,
    mask: PyTree | None = None,
    weights: Weights | None = None,
    chunk_size: int | str | None = None,
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
    check_params(params, batch, mask, chunk_size)
    apply = fast_in_loops(apply)
    apply, share, batch = _shared(apply, batch, weights)

    def respond(outputs, chunk):
        information = jax.vmap(likelihood.information)
        return lambda tangents: _scaled(information(outputs, tangents), share(chunk)) / len(outputs)

    additivity = check_outputs(apply, params, batch, mask, chunk_size, check)
    field = gauss_newton_field(apply, respond, mask)
    return jacobian_operator(field, params, batch, mask, chunk_size, recompute, memory, additivity)


@own_settings()
def monte_carlo_fisher(
    apply: Apply,
    likelihood: Likelihood,
    params: PyTree,
    batch: PyTree | Batches,
    *,
    key: Key[Array, ""] | UInt32[Array, "2"],
    num_samples: int = 1,
    mask: PyTree | None = None,
    weights: Weights | None = None,
    chunk_size: int | str | None = None,
    recompute: bool | None = None,
    memory: Budget | None = None,
    check: bool = True,
) -> Operator:
    """Return the product with the Fisher matrix, the targets sampled from the model's own output.

        F v = (1/(n S)) sum_i sum_s J_i^T g_is <g_is, J_i v>,    y_is ~ p(. | f_i),    s <= S,
        g_is = gradient of log p(y_is | f_i) in f_i

    Unbiased for `fisher` over `key`, and one fixed matrix for one key: example i draws from
    ``fold_in(stream, i)``, i its place in the data, whatever the chunks. S is `num_samples`.
    Raises ValueError also for num_samples below 1, and for `Batches` in another order at each pass.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; it must be at least 1")
    check_params(params, batch, mask, chunk_size)
    apply = fast_in_loops(apply)
    apply, share, batch = _shared(apply, batch, weights)
    key = stream(key, "monte_carlo_fisher")

    def scores(output, index):
        keys = jax.random.split(jax.random.fold_in(key, index), num_samples)
        targets = jax.vmap(likelihood.sample, (0, None))(keys, output)
        return jax.vmap(jax.grad(likelihood.log_prob), (None, 0))(output, targets)

    def respond(outputs, chunk):
        gradients = jax.lax.stop_gradient(jax.vmap(scores)(outputs, chunk[1]))
        each = share(chunk[0])

        def apply_outer_products(tangents):
            inner = jnp.einsum("ns...,n...->ns", gradients, tangents)
            return _scaled(jnp.einsum("ns,ns...->n...", inner, gradients), each) / inner.size

        return apply_outer_products

    additivity = check_outputs(apply, params, batch, mask, chunk_size, check, in_order=True)
    field = gauss_newton_field(lambda p, data: apply(p, data[0]), respond, mask)
    return jacobian_operator(
        field,
        params,
        numbered(batch),
        mask,
        chunk_size,
        recompute,
        memory,
        additivity and (lambda data, memory: additivity(data[0], memory)),
    )


@own_settings()
def empirical_fisher(
    loss: Loss,
    params: PyTree,
    batch: PyTree | Batches,
    *,
    mask: PyTree | None = None,
    weights: Weights | None = None,
    chunk_size: int | str | None = None,
    recompute: bool | None = None,
    memory: Budget | None = None,
    check: bool = True,
) -> Operator:
    """Return the product with the mean outer product of the gradients of single examples.

        E v = (1/n) sum_i g_i <g_i, v>,    g_i = gradient of the loss of example i

    The loss of an example is that of a batch with it alone, so that `loss` must be a mean over
    examples also where data are undivided; no gradient of a single example is formed. At the
    targets of `batch`, so not the Fisher matrix (Kunstner et al. 2019).
    """
    check_params(params, batch, mask, chunk_size)
    loss = fast_in_loops(loss)
    share, total = (lambda chunk: 1.0), loss
    if weights is not None:
        batch, share, total = weighted(batch, weights), _last, weighted_loss(loss)

    def losses(params, chunk):
        one = lambda example: loss(params, jax.tree.map(lambda leaf: leaf[None], example))  # noqa: E731
        if weights is None:
            return jax.vmap(one)(chunk)
        return jax.vmap(lambda example: one(example)[0])(chunk[0])

    additivity = check_loss(total, params, batch, mask, chunk_size, check, divided=True)
    respond = lambda out, chunk: lambda tangents: tangents * share(chunk) / len(out)  # noqa: E731
    field = gauss_newton_field(losses, respond, mask)
    return jacobian_operator(
        field, params, batch, mask, chunk_size, recompute, memory, additivity, divided=True
    )


def _shared(apply, batch, weights):
    """Return what maps data to outputs and to the factor of each example, and the data."""
    if weights is None:
        return apply, lambda chunk: 1.0, batch
    return _of_examples(apply), _last, weighted(batch, weights)


def _of_examples(apply):
    return lambda params, data: apply(params, data[0])


def _last(data):
    return data[1]


def _scaled(rows, factors):
    return rows * jnp.reshape(factors, jnp.shape(factors) + (1,) * (rows.ndim - 1))
