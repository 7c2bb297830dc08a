"""What a configuration means in arrays and functions: data, network, recipe, hyper-parameters."""

import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsharp.core import fingerprints
from jaxsharp.core.choices import known
from jaxsharp.data import datasets
from jaxsharp.data.datasets import Dataset, redraw_labels
from jaxsharp.networks import models
from jaxsharp.networks.network import Network
from jaxsharp.optimizers.registry import OPTIMIZERS, SHARPNESS_AWARE
from jaxsharp.runs.config import HYPER_PARAMETERS, RunConfig, Settings
from jaxsharp.runs.fingerprint import Fingerprint
from jaxsharp.training.epochs import Data, Recipe, Stopping, streams, training_gradient

EXAMPLES = 16  # with which programs are traced for their digests, whatever the batch size


class Workbench(NamedTuple):
    """A data set and a network, made once and used by every run.

    ``network`` is measured, ``trained`` is the same function, its convolutions lowered for many
    steps with few examples.
    """

    dataset: Dataset
    network: Network
    trained: Network


def workbench(dataset: Dataset, model: str) -> Workbench:
    """Build the network for a data set.

    Training takes convolutions as matrix products on every platform: vmapped over their kernels
    they would become grouped convolutions. Raises ValueError for images the network cannot take.
    """
    lowering = "tiles" if jax.default_backend() == "cpu" else "patches"
    network, trained = (models.load(model, dataset, lowering=each) for each in ("auto", lowering))
    return Workbench(dataset, network, trained)


def load_workbench(
    dataset: str, model: str, settings: Settings, data_dir: Path | None
) -> Workbench:
    """Data set and network of a configuration by name; DataError for files that are not there."""
    known("model", model, models.MODELS)
    loaded = datasets.load(
        dataset, data_dir=data_dir, train_size=settings.train_size, holdout=settings.holdout
    )
    return workbench(loaded, model)


def shared_data(bench: Workbench) -> Data:
    """The arrays that all members see; the training labels are each member's own."""
    train, test = bench.dataset.train, bench.dataset.test
    return Data(train.images, (), test.images, test.labels)


def make_recipe(config: RunConfig, bench: Workbench, *, split_batches: bool = False) -> Recipe:
    """What the members of a group share; ValueError for what the data or the variant refuses."""
    recipe = unchecked_recipe(config, bench, split_batches)
    check_step(recipe)
    return recipe


def unchecked_recipe(config: RunConfig, bench: Workbench, split_batches: bool = False) -> Recipe:
    """The same, without a trace of the step, in which an optimizer may refuse the rest."""
    settings, num_examples = config.settings, len(bench.dataset.train.labels)
    for name in ("batch_size", "measure_size"):
        size = getattr(settings, name)
        if size is not None and size > num_examples:
            raise ValueError(
                f"{name} is {size}; "
                f"it must be from 1 to {num_examples} (the number of training examples)"
            )
    stopping = Stopping(
        settings.epochs, settings.loss_below, settings.change_below, settings.patience
    )
    check_arguments(config)
    optimizer = optimizer_factory(config.optimizer, config.sam)
    return Recipe(bench.trained, optimizer, settings.batch_size, stopping, split_batches)


def contents(bench: Workbench) -> dict[str, str]:
    """Digests of a workbench's data and network by field of `Fingerprint`; nothing is computed.

    Of the network: initialization, both modes, the moments, and the gradient in training, which
    has the rules of custom derivatives, on `EXAMPLES` images. The number of classes is in that of
    the labels.
    """
    train, test = bench.dataset.train, bench.dataset.test
    labels = [fingerprints.of_array(split.labels) for split in (train, test)]
    return {
        "train_images": fingerprints.of_array(train.images),
        "train_labels": fingerprints.of_text(f"{bench.dataset.num_classes} {labels[0]}"),
        "test_images": fingerprints.of_array(test.images),
        "test_labels": labels[1],
        "network": fingerprints.of_text(" ".join(network_digests(bench))),
    }


def network_digests(bench: Workbench) -> Iterator[str]:
    """Digests of the programs of the networks that are measured and trained."""
    network, (images, labels) = bench.network, bench.dataset.train
    key = jax.eval_shape(lambda: jax.random.key(0))
    params, stats = jax.eval_shape(network.init, key)
    batch = tuple(
        jax.ShapeDtypeStruct((EXAMPLES, *each.shape[1:]), each.dtype) for each in (images, labels)
    )
    yield fingerprints.of_program(network.init, key)
    yield fingerprints.of_program(training_gradient(network), params, stats, batch)
    try:
        yield fingerprints.of_program(network.moments, params, stats, stats, batch[0])
    except (TypeError, ValueError):  # a network may have none
        yield "no moments"
    for each in dict.fromkeys((network.apply, bench.trained.apply)):
        for train in (False, True):
            apply = functools.partial(each, train=train)
            yield fingerprints.of_program(apply, params, stats, batch[0])


def fingerprint(
    config: RunConfig, bench: Workbench, digests: dict[str, str] | None = None
) -> Fingerprint:
    """What a run, and all of its group, is made from; ``digests`` are `contents`, if known."""
    recipe = unchecked_recipe(config, bench)
    return Fingerprint(
        **(digests or contents(bench)),
        optimizer=fingerprints.of_program(*step_of(recipe, hyper_arrays(config))),
        jax=jax.__version__,
        platform=jax.default_backend(),
    )


def optimizer_factory(optimizer: str, sam: str) -> Callable[..., optax.GradientTransformation]:
    """The factory of an optimizer, wrapped by a sharpness-aware variant unless that is none."""
    base = OPTIMIZERS[optimizer]
    if sam == "none":
        return base
    wrap = SHARPNESS_AWARE[sam]

    def wrapped(*, rho=None, **hyper):
        return wrap(base(**hyper)) if rho is None else wrap(base(**hyper), rho)

    return wrapped


def check_arguments(config: RunConfig) -> None:
    """Raise ValueError for a hyper-parameter that the optimizer does not take."""
    takes = {name: set(inspect.signature(f).parameters) for name, f in OPTIMIZERS.items()}
    for name in set(hyper_parameters(config)) - {"rho"} - takes[config.optimizer]:
        valid = ", ".join(other for other, names in takes.items() if name in names)
        raise ValueError(
            f"{name} is {getattr(config.settings, name)}, but {config.optimizer} takes none; "
            f"valid are {valid}"
        )


def step_of(recipe: Recipe, hyper: dict[str, np.ndarray]) -> tuple:
    """A step of an optimizer from its beginning, to be traced, and its arguments."""

    def step(params, hyper, batch):
        optimizer = optax.with_extra_args_support(recipe.optimizer(**hyper))
        extra = {"grad_fn": lambda params, batch=batch: params, "batch": batch}
        return optimizer.update(params, optimizer.init(params), params, **extra)

    params, _ = jax.eval_shape(recipe.network.init, jax.eval_shape(lambda: jax.random.key(0)))
    return step, params, hyper, jax.ShapeDtypeStruct((recipe.batch_size,), jnp.float32)


def check_step(recipe: Recipe) -> None:
    """Let an optimizer refuse the network or the batch size before anything is compiled."""
    jax.eval_shape(*step_of(recipe, {}))


def hyper_parameters(config: RunConfig) -> dict[str, float]:
    """The numeric hyper-parameters that are traced: those given, others are the optimizer's own."""
    given = {name: getattr(config.settings, name) for name in HYPER_PARAMETERS}
    if config.sam == "none":
        del given["rho"]
    return {name: value for name, value in given.items() if value is not None}


def hyper_arrays(config: RunConfig) -> dict[str, np.ndarray]:
    """Hyper-parameters of a member as arrays: to an optimizer even a zero is then a variable."""
    return {name: np.asarray(v, np.float32) for name, v in hyper_parameters(config).items()}


def labels_of(config: RunConfig, bench: Workbench) -> np.ndarray:
    """Training labels of a run, a fraction of them redrawn."""
    labels = bench.dataset.train.labels
    fraction = config.settings.label_noise
    if fraction == 0:
        return labels
    key = streams(config.seed).noise
    return np.asarray(redraw_labels(key, jnp.asarray(labels), fraction, bench.dataset.num_classes))
