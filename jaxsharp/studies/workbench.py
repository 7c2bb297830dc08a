"""A data set and a network, checked to fit, and what may be done with them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsharp.core.choices import known
from jaxsharp.core.memory import Budget, held
from jaxsharp.data import datasets
from jaxsharp.data.parts import Dataset, redraw_labels
from jaxsharp.measures.contract import Measure
from jaxsharp.measures.registry import MEASURES
from jaxsharp.networks import models
from jaxsharp.networks.checks import check_alone, check_fit, check_own
from jaxsharp.networks.losses import CROSS_ENTROPY, LOSSES, Loss, loss_of
from jaxsharp.networks.network import Network, fast_here, without_convolutions
from jaxsharp.optimizers.registry import OPTIMIZERS
from jaxsharp.runs import claims
from jaxsharp.runs.config import RunConfig, Settings
from jaxsharp.training.epochs import Data, streams

EXAMPLES = 16  # with which programs are traced and checked, whatever the batch size


class Workbench(NamedTuple):
    """A data set, a network, and what may be done with them, made once and used by every run.

    ``network`` is measured, ``trained`` is the same function, its convolutions lowered for many
    steps with few examples. ``optimizers`` and ``measures`` are the registries' and the user's own.
    """

    dataset: Dataset
    network: Network
    trained: Network
    optimizers: Mapping[str, Callable] = MappingProxyType(OPTIMIZERS)
    measures: Mapping[str, Measure] = MappingProxyType(MEASURES)


def workbench(
    dataset: Dataset, model: str | Network, loss: str | Callable | Loss | None = None
) -> Workbench:
    """Build the network for a data set, or take the user's own, with the loss of its outputs.

    Training takes the convolutions of `MODELS` as matrix products on every platform: vmapped over
    their kernels they would become grouped convolutions. Without a loss it is that of a network of
    the user's own, of others the one that targets are made for. Raises ValueError for inputs that
    the network cannot take, outputs or targets that do not fit the loss.
    """
    usual = CROSS_ENTROPY if dataset.num_classes else "squared_error"
    if isinstance(model, Network):
        made = [fast_here(model), without_convolutions(model)]
        usual = usual if model.loss == CROSS_ENTROPY else model.loss
    else:
        lowering = "tiles" if jax.default_backend() == "cpu" else "patches"
        made = [models.load(model, dataset, lowering=each) for each in ("auto", lowering)]
    chosen = loss_of(usual if loss is None else loss)
    network, trained = (each._replace(loss=chosen) for each in (made[0], made[-1]))
    bench = Workbench(dataset, network, trained)
    check_network(bench, is_own=not isinstance(model, str))
    tell_left_out(bench)
    return bench


@jax.transfer_guard("allow")
def load_workbench(
    dataset: str, model: str | Network, settings: Settings, data_dir: Path | None
) -> Workbench:
    """Data set by name, network by name or the user's own; DataError for files that are absent."""
    if isinstance(model, str):
        known("model", model, models.MODELS)
    loaded = datasets.load(
        dataset, data_dir=data_dir, train_size=settings.train_size, holdout=settings.holdout
    )
    return workbench(loaded, model, settings.loss)


def check_network(bench: Workbench, *, is_own: bool) -> None:
    """Raise ValueError unless the network takes the inputs, and its loss outputs and targets.

    On a few examples and at the initial parameters; nothing is computed of a network of the
    package (not `is_own`) with a loss of it.
    """
    network = bench.network
    few = jax.tree.map(lambda x: x[:EXAMPLES], tuple(bench.dataset.train))
    key = jax.random.key(0)
    made = jax.eval_shape(network.init, key)
    if not isinstance(made, tuple) or len(made) != 2:
        raise ValueError(
            f"the network's init returns {type(made).__name__}; it must return (params, stats), "
            "the latter {} where there are none"
        )
    outputs, stats = jax.eval_shape(network.forward, *made, few[0], key)
    if jax.tree.structure(stats) != jax.tree.structure(made[1]):
        raise ValueError(
            "the network's apply returns statistics of another structure than its init: "
            f"{jax.tree.structure(stats)}, and {jax.tree.structure(made[1])}"
        )
    jax.eval_shape(network.evaluate, *made, few[0])
    for split in (bench.dataset.train, bench.dataset.test):
        check_fit(network.loss, outputs, split.labels)
    is_own_loss = network.loss != LOSSES.get(network.loss.name)
    if is_own or is_own_loss:
        initial = network.init(key)
        check_alone(network, *initial, few[0])
        check_own(network, *initial, *few)


def tell_left_out(bench: Workbench) -> None:
    """Warn, once, of the examples that fill no batch of a loss over whole batches."""
    loss, splits = bench.network.loss, (bench.dataset.train, bench.dataset.test)
    sizes = [len(split.labels) for split in splits]
    left = [size - loss.used(size) for size in sizes]
    if any(left):
        claims.warn_once(
            f"loss {loss.name} is over whole batches of {loss.batch_size}: evaluation and measures "
            f"leave out what fills none, the last {left[0]} of {sizes[0]} training examples and "
            f"{left[1]} of {sizes[1]} test examples"
        )


def shared_data(bench: Workbench, memory: Budget) -> Data:
    """The arrays that all members see; the training labels are each member's own.

    Inputs that the memory has no room for are streamed.
    """
    train, test = bench.dataset.train, bench.dataset.test
    images, test_images = held((train.images, test.images), memory)
    return Data(images, (), test_images, test.labels)


def labels_of(config: RunConfig, bench: Workbench) -> np.ndarray:
    """Training labels of a run, a fraction of them redrawn."""
    labels = bench.dataset.train.labels
    fraction = config.settings.label_noise
    if fraction == 0:
        return labels
    key = streams(config.seed).noise
    return np.asarray(redraw_labels(key, jnp.asarray(labels), fraction, bench.dataset.num_classes))
