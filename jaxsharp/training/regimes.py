"""How a step departs from the plain one: schedules of the rate, smoothed labels, mixed examples."""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxsharp.core.entropies import log_softmax
from jaxsharp.core.trees import widen
from jaxsharp.data.augment import augmented
from jaxsharp.networks.losses import CROSS_ENTROPY, Loss
from jaxsharp.networks.network import Network

# Factors of the peak rate, of the part of the steps after the warm-up that is done, from 0 to 1.
SCHEDULES: dict[str, Callable] = {
    "constant": jnp.ones_like,
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + jnp.cos(jnp.pi * done)) / 2,
    "step": lambda done: jnp.where(done < 0.5, 1.0, jnp.where(done < 0.75, 0.1, 0.01)),
    "exponential": lambda done: 0.01**done,
}
# What is done with the examples of an epoch that do not fill a batch.
LAST_BATCHES = ("drop", "keep")


class Regime(NamedTuple):
    """What is done to the rate, the batches and the loss of training, and to nothing else.

    ``schedule`` is one of `SCHEDULES`, reached from zero in ``warmup_epochs``; ``augment`` names
    `data.augment`'s changes. The loss of training, alone, is that of labels of which a part
    ``label_smoothing`` is spread over all classes (Szegedy et al. 2016, section 7), and of batches
    mixed with a permutation of themselves, ``mixup`` the parameter of Beta(a, a) (Zhang et al.
    2018, arXiv 1710.09412). ``last_batch`` is one of `LAST_BATCHES`: the examples of an epoch that
    do not fill a batch are left out of it, or are a step of their own, by their own mean, as
    PyTorch's ``drop_last=False`` has it.
    """

    schedule: str = "constant"
    warmup_epochs: int = 0
    augment: str = "none"
    label_smoothing: float = 0.0
    mixup: float = 0.0
    last_batch: str = "drop"

    @property
    def is_scheduled(self) -> bool:
        """Whether the rate is a function of the step."""
        return self.schedule != "constant" or self.warmup_epochs > 0

    @property
    def is_random(self) -> bool:
        """Whether batches are changed at random."""
        return self.augment != "none" or self.mixup > 0

    def batch_sizes(self, num_examples: int, batch_size: int) -> list[int]:
        """Examples of each step of an epoch."""
        whole, rest = divmod(num_examples, batch_size)
        return [batch_size] * whole + [rest] * (rest > 0 and self.last_batch == "keep")


def rate_factor(regime: Regime, step: Array, steps: int, epochs: int) -> Float[Array, ""]:
    """What the peak rate is multiplied with in a step, of ``steps`` an epoch and ``epochs`` in all.

    (step + 1) / w during the w steps of the warm-up, then the schedule of (step - w) / (all - w).
    """
    warm = regime.warmup_epochs * steps
    done = jnp.clip((step - warm) / max(1, epochs * steps - warm), 0, 1)
    return jnp.where(step < warm, (step + 1) / max(1, warm), SCHEDULES[regime.schedule](done))


def changed(regime: Regime, key: PRNGKeyArray, batch: PyTree) -> PyTree:
    """A batch (inputs, targets) as training sees it; mixed, its targets are `Mixed`."""
    inputs, targets = batch
    inputs = augmented(regime.augment, jax.random.fold_in(key, 0), inputs)
    if not regime.mixup:
        return inputs, targets
    order_key, share_key = jax.random.split(jax.random.fold_in(key, 1))
    order = jax.random.permutation(order_key, len(targets))
    share = jax.random.beta(share_key, regime.mixup, regime.mixup)
    inputs = widen(inputs)
    mixed = share * inputs + (1 - share) * inputs[order]
    return mixed.astype(inputs.dtype), Mixed(
        targets, targets[order], jnp.full(len(targets), share, inputs.dtype)
    )


class Mixed(NamedTuple):
    """Targets of mixed examples: two of each, and the share of the first, one for all."""

    first: Array
    second: Array
    share: Float[Array, " n"]


@lru_cache(maxsize=32)
def objective(loss: Loss, regime: Regime) -> Callable:
    """The mean of outputs and targets that training descends."""
    mean = smoothed(regime.label_smoothing) if regime.label_smoothing else loss.mean
    if not regime.mixup:
        return mean

    def mixed(outputs, targets):
        share = targets.share[0]
        return share * mean(outputs, targets.first) + (1 - share) * mean(outputs, targets.second)

    return mixed


def smoothed(part: float) -> Callable:
    """Mean cross-entropy with labels of which a part is spread evenly over all classes."""

    def mean(logits, labels):
        even = -log_softmax(widen(logits)).mean()
        return (1 - part) * CROSS_ENTROPY.mean(logits, labels) + part * even

    return mean


def check_regime(regime: Regime, loss: Loss, inputs: tuple[int, ...]) -> None:
    """Raise ValueError for what a loss or inputs of a shape do not allow."""
    if regime.label_smoothing and loss != CROSS_ENTROPY:
        raise ValueError(
            f"label_smoothing is {regime.label_smoothing} with loss {loss.name}; it must be 0 but "
            "for cross_entropy"
        )
    if regime.mixup and loss.batch_size is not None:
        raise ValueError(
            f"mixup is {regime.mixup} with loss {loss.name}; it must be 0 for one over whole "
            "batches, whose examples have no losses to mix"
        )
    if regime.last_batch != "drop" and loss.batch_size is not None:
        raise ValueError(
            f"last_batch is {regime.last_batch} with loss {loss.name}; it must be drop for one "
            "over whole batches, as of fewer examples it is another"
        )
    if regime.augment != "none" and len(inputs) != 4:
        raise ValueError(
            f"augment is {regime.augment} for inputs of shape {inputs}; it must be none but for "
            "images, (examples, height, width, channels)"
        )


def check_last_batch(regime: Regime, network: Network, num_examples: int, batch_size: int) -> None:
    """Raise ValueError for a last batch of one example, of which BatchNorm has no variance."""
    if regime.batch_sizes(num_examples, batch_size)[-1] > 1 or batch_size == 1:
        return
    _, stats = jax.eval_shape(network.init, jax.eval_shape(lambda: jax.random.key(0)))
    if jax.tree.leaves(stats):
        raise ValueError(
            f"last_batch is keep, and of {num_examples} examples in batches of {batch_size} the "
            "last has one, of which a network takes no statistics; take another batch_size or drop"
        )
