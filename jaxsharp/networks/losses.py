"""The training loss and accuracy, and the loss of a network with its BatchNorm frozen."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jaxsharp.core.choices import known_classes
from jaxsharp.core.trees import widen

Labels = Array | np.ndarray


def cross_entropy(logits: Float[Array, "n classes"], labels: Labels) -> Float[Array, ""]:
    """Mean over the examples of -log softmax(logits)[label], in nats, in at least float32.

    `labels`, integers of shape (n,), are the classes from 0 on. Raises ValueError, one line, for
    other shapes and types, and for a label that is no class; inside jit, where labels are not
    known, the mean and its derivatives are NaN for such a label.
    """
    known = known_classes(labels, logits.shape[:-1], logits.shape[-1])
    losses = optax.softmax_cross_entropy_with_integer_labels(widen(logits), labels)
    return (losses if known is None else losses * known.astype(losses.dtype)).mean()


def accuracy(logits: Float[Array, "n classes"], labels: Labels) -> Float[Array, ""]:
    """Fraction of examples whose largest logit is the label's; labels as in `cross_entropy`."""
    known = known_classes(labels, logits.shape[:-1], logits.shape[-1])
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    right = (jnp.argmax(logits, axis=-1) == labels).astype(dtype)
    return jnp.mean(right if known is None else jnp.where(jnp.isnan(known), jnp.nan, right))


def frozen_loss(apply: Callable, stats) -> Callable:
    """Return ``loss(params, (images, labels))``: cross-entropy with BatchNorm at ``stats``.

    The data loss alone, no weight decay. In evaluation mode a network maps every example by
    itself, so that the loss is a mean over examples however they are cut into chunks.
    """

    def loss(params, batch):
        images, labels = batch
        return cross_entropy(apply(params, stats, images, False)[0], labels)

    return loss
