"""Products of curvature matrices with vectors that have the structure of the parameters."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr
from jaxtyping import PyTree

from jaxsharp.chunks import mean_over_chunks, num_examples

Loss = Callable[[PyTree, PyTree], jax.Array]
Matvec = Callable[[PyTree], PyTree]


def hessian(loss: Loss, params: PyTree, batch: PyTree, *, chunk_size: int | None = None) -> Matvec:
    """Return the product v -> H v with the Hessian H of the mean loss at `params`.

        H v = d/dt grad L(params + t v) at t = 0,    L(params) = loss(params, batch)

    `loss` returns the scalar mean over the examples of `batch`; v and H v have the structure,
    shapes and dtypes of `params`. Forward over reverse; where a custom_vjp inside `loss` has no
    forward derivative, reverse over reverse, chosen while tracing. Matrix products inside run at
    the "highest" precision, whatever the surroundings say: TF32 is good for two digits.

    chunk_size None: the gradient is linearized once, here, and each product is only the tangent
    pass (about two gradients' work), with the intermediate values of the whole batch in memory.
    Otherwise each product streams over the data (`mean_over_chunks`) and recomputes them (about
    three gradients' work), with those of one chunk in memory. The answer is the same.

    Pure: works inside jit, vmap (over stacked `params`) and loops. In a jit of your own, pass
    `params` and `batch` as arguments, as what it closes over becomes a constant of the program.

    Raises ValueError, before compilation, for parameters that are not real floating point, a loss
    that is not a real scalar, a chunk_size below 1 or a `batch` that cannot be cut.
    """
    _check_arguments(loss, params, batch, chunk_size)
    if chunk_size is None:
        with jax.default_matmul_precision("highest"):
            product = _derivative(jax.jit(jax.grad(loss)), params, batch)
    else:
        product = partial(jax.jit(partial(_streamed, jax.grad(loss), chunk_size)), params, batch)

    def matvec(vector):
        with jax.default_matmul_precision("highest"):
            return product(vector)

    return matvec


def _streamed(gradient, chunk_size, params, batch, vector):
    """Return the product as a mean over chunks, each linearized anew."""
    return mean_over_chunks(
        lambda chunk: _derivative(gradient, params, chunk)(vector), batch, chunk_size
    )


def _derivative(gradient, params, batch) -> Matvec:
    """Return the derivative of gradient(., batch) at `params`, as a function of the direction.

    As it is symmetric, its transpose (reverse mode) serves where forward mode does not exist.
    """

    def at_batch(point):
        return gradient(point, batch)

    _, push = jax.linearize(at_batch, params)
    # Looked for, not caught: the TypeError comes from lowering, in the caller's jit or loop.
    if not _has_primitive(jax.make_jaxpr(push)(params).jaxpr, "custom_lin"):
        return push
    _, pull = jax.vjp(at_batch, params)
    return lambda vector: pull(vector)[0]


def _has_primitive(jaxpr: Jaxpr, name: str) -> bool:
    """Return whether a primitive (here the tangent of a custom_vjp) occurs at any depth."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == name:
            return True
        for inner in jax.tree.leaves(list(equation.params.values())):
            inner = inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner
            if isinstance(inner, Jaxpr) and _has_primitive(inner, name):
                return True
    return False


def _check_arguments(loss, params, batch, chunk_size):
    dtypes = {jnp.result_type(leaf) for leaf in jax.tree.leaves(params)}
    wrong = sorted(str(d) for d in dtypes if not jnp.issubdtype(d, jnp.floating))
    if wrong or not dtypes:
        found = f"hold {', '.join(wrong)}" if wrong else "are empty"
        raise ValueError(f"params {found}; a Hessian needs real floating-point parameters")
    if chunk_size is not None:
        num_examples(batch, chunk_size)
    out = jax.eval_shape(loss, params, batch)
    if getattr(out, "shape", None) != () or not jnp.issubdtype(out.dtype, jnp.floating):
        raise ValueError(f"loss returned {out}; it must return a real scalar, the mean loss")
