"""Many runs as few programs: the members of a group share everything but what is numeric.

A group has one optimizer, sharpness-aware or not, and one member a seed. Its epochs are steps of
one compiled program; each member has a directory of its own, is saved there, and continues from
there. Nothing that a member computes depends on its neighbours or on interruptions.
"""

import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

from jaxsharp import models, runs
from jaxsharp.data import Dataset, redraw_labels
from jaxsharp.measures import MEASURES, Options
from jaxsharp.network import Network
from jaxsharp.optimizers import OPTIMIZERS, SHARPNESS_AWARE
from jaxsharp.runs import RunConfig
from jaxsharp.train import (
    Data,
    Metrics,
    Recipe,
    Stopping,
    TrainState,
    epoch_program,
    init_state,
    is_active,
    streams,
)


class Workbench(NamedTuple):
    """A data set, on the device too, and a network: made once, used by every run."""

    dataset: Dataset
    network: Network
    images: jax.Array
    test_images: jax.Array
    test_labels: jax.Array


class Group(NamedTuple):
    """Training states of all members, stacked, and the rows of their histories."""

    states: TrainState
    histories: list[list[tuple]]


class GroupProgress(NamedTuple):
    """What is known of a group after an epoch."""

    epoch: int
    active: int
    converged: int
    diverged: int


def workbench(dataset: Dataset, model: str, *, members: int = 1) -> Workbench:
    """Build the network for a data set and place the data on the default device.

    With several ``members`` a group, convolutions are matrix products on every platform: vmapped
    over their kernels they would become grouped convolutions.
    """
    network = models.network(model, dataset, lowering="auto" if members == 1 else "patches")
    arrays = (dataset.train.images, dataset.test.images, dataset.test.labels)
    return Workbench(dataset, network, *map(jnp.asarray, arrays))


def make_recipe(config: RunConfig, bench: Workbench) -> Recipe:
    """What the members of a group share; ValueError for what the data or the variant refuses."""
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
    optimizer = optimizer_factory(config.optimizer, config.sam)
    recipe = Recipe(bench.network, optimizer, settings.batch_size, stopping)
    check_step(recipe)
    return recipe


def optimizer_factory(optimizer: str, sam: str) -> Callable[..., optax.GradientTransformation]:
    """The factory of an optimizer, wrapped by a sharpness-aware variant unless that is none."""
    base = OPTIMIZERS[optimizer]
    if sam == "none":
        return base
    wrap = SHARPNESS_AWARE[sam]

    def wrapped(*, rho=None, **hyper):
        return wrap(base(**hyper)) if rho is None else wrap(base(**hyper), rho)

    return wrapped


def check_step(recipe: Recipe) -> None:
    """Let an optimizer refuse the network or the batch size before anything is compiled."""

    def step(key, batch):
        params, _ = recipe.network.init(key)
        optimizer = optax.with_extra_args_support(recipe.optimizer())
        extra = {"grad_fn": lambda params, batch=batch: params, "batch": batch}
        return optimizer.update(params, optimizer.init(params), params, **extra)

    jax.eval_shape(step, jax.random.key(0), jnp.zeros(recipe.batch_size))


def hyper_parameters(config: RunConfig) -> dict[str, float]:
    """The numeric hyper-parameters that are traced: those given, others are the optimizer's own."""
    settings = config.settings
    hyper = {"learning_rate": settings.learning_rate}
    if config.sam != "none":
        hyper["rho"] = settings.rho
    return {name: value for name, value in hyper.items() if value is not None}


def labels_of(config: RunConfig, bench: Workbench) -> jax.Array:
    """Training labels of a run, a fraction of them redrawn."""
    labels = jnp.asarray(bench.dataset.train.labels)
    fraction = config.settings.label_noise
    if fraction == 0:
        return labels
    return redraw_labels(streams(config.seed).noise, labels, fraction, bench.dataset.num_classes)


def train(
    configs: list[RunConfig],
    paths: list[Path],
    bench: Workbench,
    *,
    save_every: int,
    report: Callable[[GroupProgress], Any] = lambda progress: None,
) -> None:
    """Train the members of a group to their ends, from wherever their directories stand.

    A member is saved every ``save_every`` epochs, at its end, and when the user interrupts.
    """
    recipe = make_recipe(configs[0], bench)
    hyper = stack([jax.tree.map(jnp.float32, hyper_parameters(c)) for c in configs])
    members = [resume(recipe, c, path, bench) for c, path in zip(configs, paths, strict=True)]
    group = Group(stack([state for state, _ in members]), [rows for _, rows in members])
    active = np.asarray(is_active(group.states, recipe.stopping))
    if not np.any(active):
        return
    labels = jnp.stack([labels_of(c, bench) for c in configs])
    data = Data(bench.images, labels, bench.test_images, bench.test_labels)
    order_keys = jnp.stack([streams(c.seed).order for c in configs])
    program = epoch_program(recipe)
    try:
        while np.any(active):
            states, metrics = program(group.states, hyper, order_keys, data)
            # One assignment, so that an interruption finds states and histories that fit.
            group = Group(states, extended(group.histories, active, states.epoch, metrics))
            trained, active = active, np.asarray(is_active(states, recipe.stopping))
            due = trained & (~active | (np.asarray(states.epoch) % save_every == 0))
            save(group, paths, np.flatnonzero(due))
            report(
                GroupProgress(
                    int(states.epoch.max()),
                    int(active.sum()),
                    int(states.converged.sum()),
                    int(states.diverged.sum()),
                )
            )
    except KeyboardInterrupt:
        save(group, paths, np.arange(len(paths)))
        raise


def extended(histories: list, trained: np.ndarray, epochs: jax.Array, metrics: Metrics) -> list:
    """Histories with a row more for each member that was trained."""
    rows = np.stack(jax.device_get(metrics), axis=-1)
    return [
        [*history, (int(epoch), *row)] if was_trained else history
        for history, was_trained, epoch, row in zip(histories, trained, epochs, rows, strict=True)
    ]


def stack(trees: list) -> Any:
    """Stack the leaves of equal trees along a new leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def resume(
    recipe: Recipe, config: RunConfig, path: Path, bench: Workbench
) -> tuple[TrainState, list[tuple]]:
    """State of a member and the rows of its history, where its directory left them."""
    hyper = jax.tree.map(jnp.float32, hyper_parameters(config))
    fresh = init_state(recipe, hyper, *bench.network.init(streams(config.seed).init))
    saved = runs.load_state(path, fresh)
    state = fresh if saved is None else jax.tree.map(jnp.asarray, saved)
    history = runs.read_history(path, int(state.epoch))
    return state, list(history.itertuples(index=False, name=None))


def save(group: Group, paths: list[Path], which: np.ndarray) -> None:
    """Save the members ``which`` of a group in their directories."""
    if len(which) == 0:
        return
    states = jax.device_get(group.states)
    for i in which:
        table = pd.DataFrame(group.histories[i], columns=list(runs.HISTORY))
        table = table.astype(dict.fromkeys(runs.HISTORY[1:], "float32"))
        runs.save_state(paths[i], jax.tree.map(lambda leaf, i=i: leaf[i], states), table)


def final_state(config: RunConfig, path: Path, bench: Workbench) -> TrainState:
    """Latest saved state of a run; RunError if it has none."""
    if runs.latest_checkpoint(path) is None:
        raise runs.RunError(f"{path} has no checkpoint yet; train the run first")
    state, _ = resume(make_recipe(config, bench), config, path, bench)
    return state


def measure(
    config: RunConfig,
    path: Path,
    bench: Workbench,
    measures: Iterable[str],
    options: Options,
    report: Callable[[str], Any] = lambda name: None,
) -> None:
    """Measure the end of a run on its training set; what its directory has is not repeated.

    The settings' `measure_size`, if given, is the number of examples, the first of the set.
    A diverged run gets NaN for value and error. Each measure has its own random key. ``report``
    gets the name of each measure before it is taken.
    """
    table = runs.read_sharpness(path)
    done = set(zip(table["measure"], table["settings"], strict=True))
    wanted = {name: MEASURES[name].settings(options) for name in measures}
    missing = {name: text for name, text in wanted.items() if (name, text) not in done}
    if not missing:
        return
    state = final_state(config, path, bench)
    size = config.settings.measure_size
    batch = (bench.images[:size], labels_of(config, bench)[:size])
    for name, settings in missing.items():
        report(name)
        key = jax.random.fold_in(streams(config.seed).measure, zlib.crc32(name.encode()))
        value = error = float("nan")
        if not state.diverged:
            function = MEASURES[name].function
            result = function(bench.network, state.params, state.stats, batch, key, options)
            value, error = result.value, result.error
        table = table[table["measure"] != name].reset_index(drop=True)
        table.loc[len(table)] = [name, settings, value, error]
        runs.write_table(path / "sharpness.csv", table)
