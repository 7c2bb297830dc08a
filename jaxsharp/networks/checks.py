"""Whether a loss is what it says it is, and takes a network's outputs and the targets."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, PyTree

from jaxsharp.core.choices import IGNORED, known_classes
from jaxsharp.core.trees import abstract
from jaxsharp.networks.losses import (
    CROSS_ENTROPY,
    LOSSES,
    TOKEN_LOSSES,
    TOKENS,
    Loss,
    counts,
)
from jaxsharp.networks.network import Network

FEW = 16  # examples on which a loss of the user's own is looked at
FEWER = 4  # the same of one over whole batches, which two halves of these are too
APART = 0.05  # of the largest output


def check_fit(loss: Loss, outputs: Any, targets: ArrayLike) -> None:
    """Raise ValueError unless a loss takes outputs and targets: one array, of some examples.

    Of ``outputs`` shape and dtype are looked at, of targets that are not traced all values. A loss
    over whole batches is looked at for one, and must have targets of as many examples.
    """
    if not isinstance(outputs, jax.ShapeDtypeStruct):
        raise ValueError(f"the network returns {type(outputs).__name__}; it must return one array")
    if loss.batch_size is not None:
        check_enough(loss, len(targets))
        outputs = abstract(outputs, (loss.batch_size, *outputs.shape[1:]))
    shape = (outputs.shape[0], *np.shape(targets)[1:])
    few = jax.ShapeDtypeStruct(shape, jnp.result_type(targets))
    traced = isinstance(targets, jax.core.Tracer)
    try:
        jax.eval_shape(loss.mean, outputs, few)
        if loss == CROSS_ENTROPY:
            if outputs.shape[-1] < 2:
                raise ValueError("of one output softmax is constant")
            if not traced and np.any(np.asarray(targets) == IGNORED):
                raise ValueError(f"targets hold {IGNORED}, for tokens that do not count; {TOKENS}")
            known_classes(targets, np.shape(targets), outputs.shape[-1])
        if not traced and loss.name in TOKEN_LOSSES and loss == LOSSES[loss.name]:
            check_tokens(loss, np.asarray(targets), outputs.shape[-1])
        if not traced and loss.weights is not None:
            weights = np.asarray(loss.weights(targets))
            if not (np.isfinite(weights).all() and weights.min() >= 0 < weights.max()):
                low, high = weights.min(), weights.max()
                raise ValueError(
                    f"weights lie from {low} to {high}; they must be finite, not negative, and "
                    "some above 0"
                )
        if loss == LOSSES["binary_cross_entropy"] and not traced:
            low, high = np.min(targets), np.max(targets)
            if not 0 <= low <= high <= 1:
                raise ValueError(f"targets lie from {low} to {high}; they must lie from 0 to 1")
    except (ValueError, TypeError, IndexError) as error:
        raise ValueError(
            f"outputs of shape {outputs.shape} and targets of shape {few.shape} do not fit the "
            f"loss {loss.name}: {str(error).splitlines()[0]}"
        ) from None


def check_enough(loss: Loss, num_examples: int) -> None:
    """Raise ValueError for data of which a loss over whole batches has none."""
    if num_examples < (loss.batch_size or 1):
        raise ValueError(
            f"loss {loss.name} is over whole batches of {loss.batch_size} examples, and the data "
            f"have {num_examples}; give whole_batch a batch_size of at most as many"
        )


def check_tokens(loss: Loss, labels: np.ndarray, num_classes: int) -> None:
    """Raise ValueError for labels that are no classes, and where nothing is left to take a mean of.

    Of the loss by tokens that is so if no token counts, of that by examples if none of one does.
    """
    known_classes(np.where(labels == IGNORED, 0, labels), labels.shape, num_classes)
    empty = np.flatnonzero(np.asarray(counts(labels)) == 0)
    if len(empty) == len(labels) or (loss.weights is None and len(empty)):
        raise ValueError(f"of example {empty[0]} no token counts, all are {IGNORED}")


@jax.transfer_guard("allow")
def check_alone(network: Network, params: PyTree, stats: PyTree, inputs: ArrayLike) -> None:
    """Raise ValueError if evaluation of an example depends on the others, as batch statistics do.

    Seen on the first example, alone and among a few: outputs that are more than APART of the
    largest from each other, which rounding in 16 bits is not. Chunks of the data, whose size the
    memory decides, would be other functions. With a loss over whole batches that is meant.
    Of what is traced nothing is seen.
    """
    traced = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((params, stats, inputs)))
    if traced or network.loss.batch_size is not None or len(inputs) < 2:
        return
    with jax.debug_nans(False):  # what is not finite is seen elsewhere
        found = first_of(network, params, stats, inputs[:FEWER])
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        one, other = (np.asarray(x, np.float64) for x in (one, other))
        with np.errstate(invalid="ignore"):
            size, apart = np.abs(one).max(initial=0), np.abs(one - other).max(initial=0)
        if apart > APART * size:
            raise ValueError(
                f"evaluation of an example depends on the others: its outputs, up to {size:.3g}, "
                f"are {apart:.3g} from those of it alone; with train=False each example must be by "
                "itself, BatchNorm by its running statistics"
            )


@partial(jax.jit, static_argnums=0)
def first_of(network: Network, params: PyTree, stats: PyTree, few: ArrayLike) -> tuple:
    """Outputs of the first example among a few, and alone."""
    among, alone = (network.evaluate(params, stats, x) for x in (few, few[:1]))
    return tuple(jax.tree.map(lambda outputs: outputs[0], each) for each in (among, alone))


def check_own(
    network: Network, params: PyTree, stats: PyTree, inputs: ArrayLike, targets: ArrayLike
) -> None:
    """Raise ValueError for a loss of the user's own that is not what it says it is.

    Seen on the first examples: a mean over examples is that of its values for each, alone; of one
    over whole batches, outputs that are drawn at random have another loss than two halves of them.
    """
    loss = network.loss
    if loss.batch_size is not None:
        shape = jax.eval_shape(network.evaluate, params, stats, inputs[:1])
        outputs = jax.random.normal(jax.random.key(0), (FEWER, *shape.shape[1:]), shape.dtype)
        return check_whole(loss, outputs, targets[:FEWER])
    if loss == LOSSES.get(loss.name):
        return
    targets = jnp.asarray(targets[:FEW])
    total = loss.total(targets)
    if (total is None and loss.whole is None) or total == 0:
        return
    outputs = network.evaluate(params, stats, inputs[:FEW])
    one = loss.in_parts(loss.mean, total)
    each = jax.vmap(lambda output, target: one(output[None], target[None]))(outputs, targets)
    whole = np.asarray((loss.whole or loss.mean)(outputs, targets)).mean()
    mean = np.asarray(each).mean()
    if not abs(whole - mean) <= 1e-3 * abs(mean) + 1e-6:
        raise ValueError(
            f"loss {loss.name} is {whole:.6g} of some examples, and {mean:.6g} the mean of its "
            "values for each; it must be a mean over examples: return one number for each, of that "
            "example alone, or declare it over whole batches: networks.whole_batch(loss, size)"
        )


def check_whole(loss: Loss, outputs: PyTree, targets: ArrayLike) -> None:
    """Raise ValueError for a mean over examples that was declared over whole batches."""
    half = len(targets) // 2
    parts = slice(None), slice(half), slice(half, None)
    try:
        whole, *halves = (float(loss.mean(outputs[part], targets[part])) for part in parts)
    except Exception:  # of the user's function, which need not take batches as small
        return
    if abs(whole - sum(halves) / 2) <= 1e-5 * abs(whole):
        raise ValueError(
            f"loss {loss.name} is declared over whole batches, and is a mean over examples: "
            f"{whole:.6g} of some, as is the mean of their halves; give the function itself as loss"
        )
