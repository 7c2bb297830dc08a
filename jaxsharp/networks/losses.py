"""What the outputs of a network are trained for: losses and accuracy, means over examples."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, ScalarLike

from jaxsharp.core.choices import IGNORED, hashable, known, known_classes
from jaxsharp.core.entropies import binary_cross_entropies, cross_entropies
from jaxsharp.core.trees import widen


class Loss(NamedTuple):
    """A loss of outputs and targets, and the accuracy that goes with it.

    ``mean(outputs, targets)`` is the mean over examples, in which each counts alike, or, if there
    are ``weights``, by ``weights(targets)``, one number each; ``accuracy`` likewise, None where
    there is none. ``whole``, of the user's own losses alone, is the function as it was given.

    Of a loss over whole batches (`batches.whole_batch`) ``mean`` is that of one batch, and
    ``batch_size`` the examples of each of the fixed batches that it is evaluated on. ``stacked``:
    outputs and targets are those batches along a leading axis (`batches.in_batches`).
    """

    name: str
    mean: Callable
    accuracy: Callable | None = None
    whole: Callable | None = None
    weights: Callable | None = None
    batch_size: int | None = None
    stacked: bool = False

    def used(self, num_examples: int) -> int:
        """Of so many examples those that are evaluated: those in whole batches, or all."""
        return num_examples - num_examples % (self.batch_size or 1)

    def total(self, targets: ArrayLike) -> Float[Array, ""] | None:
        """The mean weight of examples; None where each counts alike."""
        return None if self.weights is None else jnp.mean(widen(self.weights(targets)))

    def in_parts(self, mean: Callable, total: ScalarLike | None) -> Callable:
        """A mean, or accuracy, in the form that chunks of data with this `total` weight add up to.

        Its plain averages over chunks, by their numbers of examples, are the weighted mean over all
        data; of one chunk it is no mean.
        """
        if total is None:
            return mean
        return lambda outputs, targets: mean(outputs, targets) * (self.total(targets) / total)


def name_of(fn: Callable) -> str:
    """What a user's function is called."""
    return getattr(fn, "__name__", type(fn).__name__)


@jax.transfer_guard("allow")
def cross_entropy(logits: Float[Array, "n ... classes"], labels: ArrayLike) -> Float[Array, ""]:
    """Mean over the examples of -log softmax(logits)[label], in nats, in at least float32.

    It and its derivatives keep their digits at any size of the loss (`core.entropies`).
    `labels`, integers of the shape of `logits` without its last axis, are the classes from 0 on;
    over axes between the first and the last, as of tokens, the mean is taken too. Raises
    ValueError, one line, for other shapes and types, and for a label that is no class; inside jit,
    where labels are not known, the mean and its derivatives are NaN for such a label.
    """
    known = known_classes(labels, logits.shape[:-1], logits.shape[-1])
    losses = cross_entropies(widen(logits), labels)
    return (losses if known is None else losses * known.astype(losses.dtype)).mean()


@jax.transfer_guard("allow")
def accuracy(logits: Float[Array, "n ... classes"], labels: ArrayLike) -> Float[Array, ""]:
    """Fraction of examples whose largest logit is the label's; labels as in `cross_entropy`."""
    known = known_classes(labels, logits.shape[:-1], logits.shape[-1])
    right = (jnp.argmax(logits, axis=-1) == labels).astype(widen(logits).dtype)
    return jnp.mean(right if known is None else jnp.where(jnp.isnan(known), jnp.nan, right))


@jax.transfer_guard("allow")
def binary_cross_entropy(logits: Float[Array, "n ..."], targets: ArrayLike) -> Float[Array, ""]:
    """Mean over the examples of the cross-entropy of sigmoid(logits) and targets from 0 to 1.

    Summed over the outputs of an example, in nats, in at least float32. Targets have the shape of
    the outputs, or (n,) where there is one.
    """
    logits, targets = alike(logits, targets)
    losses = binary_cross_entropies(logits, targets)
    inside = (targets >= 0) & (targets <= 1)
    return jnp.where(inside, losses, jnp.nan).sum() / len(logits)


@jax.transfer_guard("allow")
def binary_accuracy(logits: Float[Array, "n ..."], targets: ArrayLike) -> Float[Array, ""]:
    """Fraction of outputs whose sign says on which side of 1/2 the target lies."""
    logits, targets = alike(logits, targets)
    return jnp.mean(((logits > 0) == (targets > 0.5)).astype(logits.dtype))


@jax.transfer_guard("allow")
def squared_error(outputs: Float[Array, "n ..."], targets: ArrayLike) -> Float[Array, ""]:
    """Mean over the examples of the sum over outputs of (f - y)^2, in at least float32."""
    outputs, targets = alike(outputs, targets)
    return jnp.square(outputs - targets).sum() / len(outputs)


def weighted_mean(values: Array, weights: ArrayLike) -> Float[Array, ""]:
    """Sum of weights times values over the sum of weights, in at least float32; 0 if that is 0."""
    values, weights = widen(values), jnp.asarray(weights)
    if values.shape != weights.shape:
        raise ValueError(
            f"losses have shape {values.shape} and weights {weights.shape}; each must have one "
            "number for each example"
        )
    weights = weights.astype(values.dtype)
    total = weights.sum()
    return jnp.where(total == 0, 0, (weights * values).sum() / jnp.where(total == 0, 1, total))


@lru_cache(maxsize=32)  # so that one function is one static argument of compiled programs
def by_weights(losses: Callable, weights: Callable, accuracies: Callable | None = None) -> Loss:
    """The loss whose examples count by their weights, in a batch and over a data set.

        sum_i w_i l_i / sum_i w_i,    l = losses(outputs, targets),    w = weights(targets)

    Both return one number for each example, shape (n,); weights are finite and not negative. So
    do ``accuracies``, where there is an accuracy. A step of training has the weighted mean over its
    batch, 0 for one in which nothing counts; losses of a run, and measures, have that over all
    data, whatever the chunks (`Loss.in_parts`).
    """

    def of(fn):
        return lambda outputs, targets: weighted_mean(fn(outputs, targets), weights(targets))

    accuracy = None if accuracies is None else of(accuracies)
    return Loss(name_of(losses), of(losses), accuracy, weights=weights)


def counts(labels: ArrayLike) -> Float[Array, " n"]:
    """How many tokens of each example count: those that are not `IGNORED`."""
    labels = jnp.asarray(labels)
    return (labels != IGNORED).sum(range(1, labels.ndim)).astype(float)


def over_tokens(values: Float[Array, "n *tokens"], labels: ArrayLike) -> Float[Array, " n"]:
    """The mean of each example over its tokens that count, 0 where none does."""
    counted = jnp.asarray(labels) != IGNORED
    total = jnp.where(counted, values, 0).sum(range(1, values.ndim))
    return total / jnp.maximum(counts(labels), 1).astype(values.dtype)


def token_losses(logits: Float[Array, "n ... classes"], labels: ArrayLike) -> Float[Array, " n"]:
    """Mean cross-entropy, in nats, of each example over its tokens that count.

    ``labels`` as in `cross_entropy`, or `IGNORED` where a token does not count.
    """
    labels = jnp.asarray(labels)
    seen = jnp.where(labels == IGNORED, 0, labels)
    known = known_classes(seen, logits.shape[:-1], logits.shape[-1])
    losses = cross_entropies(widen(logits), seen)
    return over_tokens(losses if known is None else losses * known.astype(losses.dtype), labels)


def token_accuracies(logits: Float[Array, "n ... classes"], labels: ArrayLike) -> Array:
    """Fraction of the tokens that count whose largest logit is the label's, of each example."""
    right = jnp.argmax(logits, axis=-1) == jnp.asarray(labels)
    return over_tokens(right.astype(widen(logits).dtype), labels)


def alike(outputs: Array, targets: ArrayLike) -> tuple[Array, Array]:
    """Outputs and targets in the precision and shape of the outputs; nothing is broadcast."""
    check_alike(outputs.shape, targets)
    outputs = widen(outputs)
    return outputs, jnp.asarray(targets).astype(outputs.dtype).reshape(outputs.shape)


def check_alike(outputs: tuple[int, ...], targets: ArrayLike) -> None:
    """Raise ValueError unless targets have the shape of outputs, or (n,) for those of one."""
    shape, column = np.shape(targets), outputs[1:] == (1,)
    if shape != outputs and not (column and shape == outputs[:1]):
        raise ValueError(
            f"targets have shape {shape}; they must have that of the outputs, {outputs}"
        )


LOSSES = {
    "cross_entropy": Loss("cross_entropy", cross_entropy, accuracy),
    "binary_cross_entropy": Loss("binary_cross_entropy", binary_cross_entropy, binary_accuracy),
    "squared_error": Loss("squared_error", squared_error),
    # The mean over all tokens that count: an example counts by how many it has.
    "token_cross_entropy": by_weights(token_losses, counts, token_accuracies)._replace(
        name="token_cross_entropy"
    ),
    # The mean over examples, which count alike, of the means over their tokens that count.
    "token_cross_entropy_by_example": Loss(
        "token_cross_entropy_by_example",
        lambda logits, labels: token_losses(logits, labels).mean(),
        lambda logits, labels: token_accuracies(logits, labels).mean(),
    ),
}
CROSS_ENTROPY = LOSSES["cross_entropy"]
TOKEN_LOSSES = ("token_cross_entropy", "token_cross_entropy_by_example")
TOKENS = f"valid losses of such are {', '.join(TOKEN_LOSSES)}"


def loss_of(loss: str | Callable | Loss) -> Loss:
    """One of `LOSSES` by name, or the user's own ``loss(outputs, targets)``.

    The latter returns one number for each example, or their mean: then it is taken of one example
    at a time, so that no chunk or batch can change what it means (`checks.check_own`).
    """
    if isinstance(loss, Loss):
        return loss
    return (
        own_loss(hashable("loss", loss)) if callable(loss) else LOSSES[known("loss", loss, LOSSES)]
    )


@lru_cache(maxsize=32)  # so that one function is one static argument of compiled programs
def own_loss(fn: Callable) -> Loss:
    """The user's own loss as a mean over examples."""

    def mean(outputs, targets):
        found = jax.eval_shape(fn, outputs, targets)
        shape, n = getattr(found, "shape", None), jax.tree.leaves(outputs)[0].shape[0]
        if shape == (n,):
            losses = fn(outputs, targets)
        elif shape == ():
            losses = jax.vmap(lambda *one: fn(*jax.tree.map(lambda x: x[None], one)))(
                outputs, targets
            )
        else:
            raise ValueError(
                f"loss {name_of(fn)} returns {shown_shapes(found)} for {n} examples; it must "
                f"return one number for each, shape ({n},), or their mean, shape ()"
            )
        return widen(losses).mean()

    return Loss(name_of(fn), mean, None, fn)


def shown_shapes(found: Any) -> str:
    """The shapes of what a function returns."""
    return ", ".join(str(leaf.shape) for leaf in jax.tree.leaves(found)) or "nothing"
