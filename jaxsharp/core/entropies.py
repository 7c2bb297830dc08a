"""Cross-entropies whose values and derivatives keep their digits however sure a network is.

With m the likeliest class and d_j = f_j - f_m,

    -log softmax(f)_j = log1p(S) - d_j,    S = sum_(k != m) exp(d_k),    d_m = 0,

of numbers that are not negative. The loss of a likeliest class is log1p(S), its slope in f_m is
-S / (1 + S), and not the rounded 1 / (1 + S) - 1; second derivatives are p_j (u_j - sum p_k u_k)
with u = v - v_m, in which nothing near 1 is left to cancel, whatever the target. Everywhere else
differences of exactly equal numbers are left out by masks, so that no sum has to cancel them. All
follows by ordinary differentiation, to any order; logits of which the largest is not finite give
NaN, as have their derivatives.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Integer


def log_softmax(logits: Float[Array | np.ndarray, "*n classes"]) -> Float[Array, "*n classes"]:
    """Return log softmax(f)_j = d_j - log1p(S), each within a few eps of |d_j| + its own size."""
    differences, log_sum = _from_likeliest(logits)
    return differences - log_sum[..., None]


def cross_entropies(
    logits: Float[Array | np.ndarray, "*n classes"], labels: Integer[ArrayLike, "*n"]
) -> Float[Array, "*n"]:
    """Return -log softmax(f)_y of labels y from 0 on, which are not checked here."""
    differences, log_sum = _from_likeliest(logits)
    chosen = _classes(logits) == jnp.asarray(labels).astype(jnp.int32)[..., None]
    return log_sum - jnp.where(chosen, differences, 0).sum(-1)


def binary_cross_entropies(logits: Float[Array, "*n"], targets: ArrayLike) -> Float[Array, "*n"]:
    """Return -t log sigmoid(f) - (1 - t) log sigmoid(-f), of targets t from 0 to 1.

    f (1 - t) or, where f <= 0, -f t, and log1p(exp(-|f|)): the above with the logits f and 0.
    """
    targets, above = jnp.asarray(targets).astype(logits.dtype), logits > 0
    beyond = logits * jnp.where(above, 1 - targets, -targets)
    return beyond + jnp.log1p(jnp.exp(jnp.where(above, -logits, logits)))


def _classes(logits):
    """The index of each class."""
    return lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)


def _from_likeliest(logits):
    """Return d and log1p(S); m is the first of equally likely ones, and any would do."""
    classes, held = _classes(logits), lax.stop_gradient(logits)
    ties = jnp.where(held == held.max(-1, keepdims=True), classes, logits.shape[-1])
    likeliest = classes == ties.min(-1, keepdims=True)  # several times faster than argmax on CPUs
    largest = jnp.where(likeliest, logits, 0).sum(-1, keepdims=True)
    differences = jnp.where(likeliest, 0, logits - largest)
    rest = jnp.where(likeliest, 0, jnp.exp(differences)).sum(-1)
    usual = jnp.where(jnp.isfinite(held.max(-1)), 1, jnp.nan).astype(logits.dtype)
    return differences, jnp.log1p(rest) * usual
