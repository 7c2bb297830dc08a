"""The training loss and accuracy, and the loss of a network with its BatchNorm frozen."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

Labels = Int[Array | np.ndarray, " n"]


def cross_entropy(logits: Float[Array, "n classes"], labels: Labels) -> Float[Array, ""]:
    """Mean over the examples of -log softmax(logits)[label], in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def accuracy(logits: Float[Array, "n classes"], labels: Labels) -> Float[Array, ""]:
    """Fraction of examples whose largest logit is the label's."""
    return jnp.mean(jnp.argmax(logits, axis=-1) == labels, dtype=logits.dtype)


def frozen_loss(apply: Callable, stats) -> Callable:
    """Return ``loss(params, (images, labels))``: cross-entropy with BatchNorm at ``stats``.

    The data loss alone, no weight decay. In evaluation mode a network maps every example by
    itself, so that the loss is a mean over examples however they are cut into chunks.
    """

    def loss(params, batch):
        images, labels = batch
        return cross_entropy(apply(params, stats, images, False)[0], labels)

    return loss
