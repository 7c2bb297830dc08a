"""Distributions of the targets given an output, and factors of output losses' Hessians."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxsharp.core.choices import known_classes
from jaxsharp.core.entropies import binary_cross_entropies, cross_entropies
from jaxsharp.core.keys import stream


class Likelihood(NamedTuple):
    """p(y | f) for the output f of one example, any array shape; three pure functions.

        log_prob(f, y)       log p(y | f), up to terms without f
        sample(key, f)       a target y drawn from p(y | f)
        information(f, u)    E_y[s <s, u>],  s = gradient of log p(y | f) in f

    `information` is linear in u: the Fisher matrix of the output alone. Those below raise
    ValueError for targets of other shape (they would be broadcast) or type, and for labels that
    are no class or probability; for traced ones, whose values are not known, log p is NaN.
    """

    log_prob: Callable
    sample: Callable
    information: Callable


def _class_log_prob(logits, label):
    _check_classes(logits)
    known = known_classes(label, (), logits.size)
    log_prob = -cross_entropies(logits, label)
    return log_prob if known is None else log_prob * known.astype(log_prob.dtype)


def _class_sample(key, logits):
    _check_classes(logits)
    return jax.random.categorical(stream(key, "categorical"), logits)


def _class_information(logits, vector):
    _check_classes(logits)
    p = jax.nn.softmax(logits)
    differences = vector - vector[jnp.argmax(logits)]  # so that nothing near 1 has to cancel
    return p * (differences - p @ differences)


def _check_classes(logits):
    """Raise ValueError for outputs of more axes, say a row of tokens."""
    if jnp.ndim(logits) != 1:
        raise ValueError(
            f"the output of an example has shape {jnp.shape(logits)}; categorical takes "
            "(classes,), so give a Likelihood that sums it over the other axes"
        )


def _bernoulli_log_prob(logits, labels):
    _check_shape(logits, labels)
    known = jnp.where((labels >= 0) & (labels <= 1), 1.0, jnp.nan).astype(logits.dtype)
    if not isinstance(known, jax.core.Tracer) and jnp.isnan(known).any():
        raise ValueError(f"targets hold {jnp.asarray(labels)[jnp.isnan(known)][0]}, not 0 to 1")
    return -jnp.sum(known * binary_cross_entropies(logits, labels))


def _gaussian_log_prob(mean, target):
    _check_shape(mean, target)
    return -jnp.sum(jnp.square(mean - target)) / 2


def _poisson_log_prob(log_rate, count):
    _check_shape(log_rate, count)
    return jnp.sum(count * log_rate - jnp.exp(log_rate))


def _check_shape(output, target):
    """Raise ValueError for a target that would be broadcast."""
    if jnp.shape(output) != jnp.shape(target):
        raise ValueError(
            f"the target of an example has shape {jnp.shape(target)}; it must be that of its "
            f"output, {jnp.shape(output)}"
        )


# One of several classes; f are logits, y the index of the class: softmax cross-entropy.
categorical = Likelihood(
    _class_log_prob,
    _class_sample,
    _class_information,
)

# Independent yes or no for each entry; f are logits: binary cross-entropy, summed.
bernoulli = Likelihood(
    _bernoulli_log_prob,
    lambda key, logits: jax.random.bernoulli(
        stream(key, "bernoulli"), jax.nn.sigmoid(logits)
    ).astype(logits.dtype),
    lambda logits, vector: jax.nn.sigmoid(logits) * jax.nn.sigmoid(-logits) * vector,
)

# Normal with mean f and variance 1: half the squared error, ||f - y||^2 / 2, summed.
gaussian = Likelihood(
    _gaussian_log_prob,
    lambda key, mean: mean + jax.random.normal(stream(key, "gaussian"), mean.shape, mean.dtype),
    lambda mean, vector: vector,
)

# Counts; f are the logarithms of their rates.
poisson = Likelihood(
    _poisson_log_prob,
    lambda key, log_rate: jax.random.poisson(stream(key, "poisson"), jnp.exp(log_rate)).astype(
        log_rate.dtype
    ),
    lambda log_rate, vector: jnp.exp(log_rate) * vector,
)


def softmax_factors(logits: Float[Array, " classes"]) -> Float[Array, "factors classes"]:
    """Rows s_k, one fewer than classes, with sum_k s_k s_k^T the Hessian of the cross-entropy.

    With p = softmax(f), r = sqrt(p) and m the likeliest class, the reflection
    I - v v^T / (1 + r_m), v = r + e_m, takes e_m to -r. Its other columns u_k, k != m, span what
    is orthogonal to r, so that for s_k = r * u_k

        sum_(k != m) s_k s_k^T = diag(r) (I - r r^T) diag(r) = diag(p) - p p^T.

    No nearly equal numbers are subtracted, however sure the network is. Raises ValueError for a
    single output, of which the loss is 0 whatever the network.
    """
    if logits.size < 2:
        raise ValueError(
            f"softmax cross-entropy of {logits.size} output is constant; it takes 2 or more, a "
            "single one is that of binary cross-entropy (sigmoid_factors)"
        )
    others = (jnp.argmax(logits) + jnp.arange(1, logits.size)) % logits.size
    weights = jnp.eye(logits.size, dtype=logits.dtype)[others]
    return jax.vmap(partial(combined_softmax, logits))(weights)


def combined_softmax(
    logits: Float[Array, " classes"], weights: Float[Array, " classes"]
) -> Float[Array, " classes"]:
    """sum_k w_k s_k of the rows of `softmax_factors`, in O(classes); the likeliest has no row.

    With independent signs for weights, the mean of its outer product is the Hessian.
    """
    p = jax.nn.softmax(logits)
    r, m = jnp.sqrt(p), jnp.argmax(logits)
    others = weights.at[m].set(0)
    return r * (others - (others @ r) / (1 + r[m]) * r.at[m].add(1))


def squared_factors(logits: Float[Array, " classes"]) -> Float[Array, "classes classes"]:
    """Rows sqrt(2) e_k: the loss of an example is sum_c (f_c - y_c)^2."""
    return jnp.diag(combined_squared(logits, jnp.ones_like(logits)))


def combined_squared(
    logits: Float[Array, " classes"], weights: Float[Array, " classes"]
) -> Float[Array, " classes"]:
    """sum_k w_k s_k of the rows of `squared_factors`."""
    return math.sqrt(2) * weights


def sigmoid_factors(logits: Float[Array, " outputs"]) -> Float[Array, "outputs outputs"]:
    """Rows sqrt(p_k (1 - p_k)) e_k, p = sigmoid(f): binary cross-entropy, summed over outputs."""
    return jnp.diag(combined_sigmoid(logits, jnp.ones_like(logits)))


def combined_sigmoid(
    logits: Float[Array, " outputs"], weights: Float[Array, " outputs"]
) -> Float[Array, " outputs"]:
    """sum_k w_k s_k of the rows of `sigmoid_factors`."""
    return weights * jnp.sqrt(jax.nn.sigmoid(logits) * jax.nn.sigmoid(-logits))
