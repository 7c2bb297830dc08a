"""What a configuration means to training: optimizer, hyper-parameters, regime, when to stop."""

import inspect
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsharp.core.choices import known
from jaxsharp.core.memory import budget
from jaxsharp.measures.contract import Options, Trained
from jaxsharp.networks.losses import Loss
from jaxsharp.optimizers.registry import OPTIMIZERS, SHARPNESS_AWARE, own_arguments
from jaxsharp.runs.config import HYPER_PARAMETERS, RunConfig, Settings
from jaxsharp.studies.workbench import EXAMPLES, Workbench
from jaxsharp.training.averages import Averaging, check_averaging
from jaxsharp.training.descents import CUTTING, Descent
from jaxsharp.training.epochs import Recipe, Stopping, TrainState, init_state, streams
from jaxsharp.training.precision import check_compute
from jaxsharp.training.regimes import Regime, check_last_batch, check_regime
from jaxsharp.training.trackers import QUANTITIES, WITH_BATCHES, Tracking, first_tracked


def make_recipe(config: RunConfig, bench: Workbench, *, split_batches: bool = False) -> Recipe:
    """What the members of a group share; ValueError for what the data or the variant refuses."""
    recipe = unchecked_recipe(config, bench, split_batches)
    sizes = recipe.regime.batch_sizes(len(bench.dataset.train.labels), recipe.batch_size)
    for size in dict.fromkeys(sizes):
        check_step(recipe, hyper_arrays(config, bench.optimizers), size)
    check_tracking(config, bench)
    return recipe


def unchecked_recipe(config: RunConfig, bench: Workbench, split_batches: bool = False) -> Recipe:
    """The same, without a trace of the step, in which an optimizer may refuse the rest."""
    settings, num_examples = config.settings, len(bench.dataset.train.labels)
    for name in ("batch_size", "measure_size", "track_size"):
        size = getattr(settings, name)
        if size is not None and size > num_examples:
            raise ValueError(
                f"{name} is {size}; "
                f"it must be from 1 to {num_examples} (the number of training examples)"
            )
    check_followed(settings)
    check_batches(config, bench.network.loss)
    labels = bench.dataset.train.labels
    if settings.label_noise and (labels.dtype != np.int32 or labels.ndim > 1):
        what = "numbers" if labels.dtype != np.int32 else "classes of tokens"
        raise ValueError(f"label_noise is {settings.label_noise}; {what} cannot be redrawn")
    if settings.mixup and bench.dataset.train.images.dtype == np.int32:
        raise ValueError(f"mixup is {settings.mixup}; inputs that are integers cannot be mixed")
    stopping = Stopping(
        settings.epochs, settings.loss_below, settings.change_below, settings.patience
    )
    regime = regime_of(settings)
    check_regime(regime, bench.network.loss, bench.dataset.train.images.shape)
    check_last_batch(regime, bench.trained, num_examples, settings.batch_size)
    few = bench.dataset.train.images[:EXAMPLES]
    check_compute(settings.compute, bench.trained, few)
    averaging = Averaging(settings.average, settings.average_decay, settings.average_after)
    check_averaging(averaging, bench.network, few)
    check_arguments(config, bench.optimizers)
    base = bench.optimizers[config.optimizer]
    optimizer = optimizer_factory(base, config.sam, settings.clip_norm)
    size = settings.batch_size
    return Recipe(
        *(bench.trained, optimizer, size, stopping, split_batches, regime, averaging),
        compute=settings.compute,
        cuts=config.sam in CUTTING,
    )


def check_followed(settings: Settings) -> None:
    """Raise ValueError for quantities of batches, of examples that are fewer than a batch has.

    Of a run alone: the batch size of a grid's settings may be one that no run has.
    """
    batched = [name for name in settings.tracked if name in WITH_BATCHES]
    if batched and settings.track_size is not None and settings.track_size < settings.batch_size:
        raise ValueError(
            f"track_size is {settings.track_size}; {batched[0]} is of batches, so that it must be "
            f"at least batch_size, {settings.batch_size}"
        )


def check_batches(config: RunConfig, loss: Loss) -> None:
    """Raise ValueError for what a loss over whole batches does not allow."""
    if loss.batch_size is None:
        return
    least = {"batch_size": 2, "measure_size": loss.batch_size, "track_size": loss.batch_size}
    for name, fewest in least.items():
        size = getattr(config.settings, name)
        if size is not None and size < fewest:
            raise ValueError(
                f"{name} is {size}; with loss {loss.name}, over whole batches of "
                f"{loss.batch_size}, it must be at least {fewest}"
            )
    if config.sam in CUTTING:
        raise ValueError(
            f"sam is {config.sam}, which cuts a batch into groups; loss {loss.name} is over whole "
            "batches, take another batch_size and sam"
        )


def regime_of(settings: Settings) -> Regime:
    """What the settings say of rate, batches and loss in training."""
    return Regime(*(getattr(settings, name) for name in Regime._fields))


def optimizer_factory(
    base: Callable, sam: str, clip_norm: float | None = None
) -> Callable[..., optax.GradientTransformation]:
    """The factory of an optimizer on clipped gradients, wrapped by a SAM variant unless none."""

    def clipped(**hyper):
        made = base(**hyper)
        if clip_norm is None:
            return made
        return optax.chain(optax.clip_by_global_norm(clip_norm), made)

    if sam == "none":
        return clipped
    wrap = SHARPNESS_AWARE[sam]

    def wrapped(*, rho=None, **hyper):
        return wrap(clipped(**hyper)) if rho is None else wrap(clipped(**hyper), rho)

    return wrapped


def check_arguments(config: RunConfig, optimizers: Mapping[str, Callable]) -> None:
    """Raise ValueError for a hyper-parameter that the optimizer does not take."""
    known("optimizer", config.optimizer, optimizers)
    takes = {name: set(inspect.signature(f).parameters) for name, f in optimizers.items()}
    for name in set(hyper_parameters(config, optimizers)) - {"rho"} - takes[config.optimizer]:
        valid = ", ".join(other for other, names in takes.items() if name in names)
        raise ValueError(
            f"{name} is {getattr(config.settings, name)}, but {config.optimizer} takes none; "
            f"valid are {valid}"
        )


def step_of(recipe: Recipe, hyper: dict[str, np.ndarray], size: int | None = None) -> tuple:
    """A step of an optimizer from its beginning, to be traced, and its arguments.

    With a batch of so many examples instead of the usual number.
    """

    def step(params, hyper, batch):
        optimizer = optax.with_extra_args_support(recipe.optimizer(**hyper))
        extra = {"grad_fn": lambda params, batch=batch: params, "batch": batch}
        return optimizer.update(params, optimizer.init(params), params, **extra)

    params, _ = jax.eval_shape(recipe.network.init, jax.eval_shape(lambda: jax.random.key(0)))
    return step, params, hyper, jax.ShapeDtypeStruct((size or recipe.batch_size,), jnp.float32)


def check_step(recipe: Recipe, hyper: dict[str, np.ndarray], size: int) -> None:
    """Let an optimizer refuse the network or a batch size before anything is compiled."""
    jax.eval_shape(*step_of(recipe, hyper, size))


def hyper_parameters(
    config: RunConfig, optimizers: Mapping[str, Callable] = OPTIMIZERS
) -> dict[str, float]:
    """The numeric hyper-parameters that are traced: those given, others are the optimizer's own.

    A schedule has its optimizer's own learning rate as its peak; ValueError where that has none.
    An optimizer that takes `base_learning_rate`, None unless told another, as AdaBound does, is
    told the peak.
    """
    settings = config.settings
    given = {name: getattr(settings, name) for name in HYPER_PARAMETERS}
    if config.sam == "none":
        del given["rho"]
    if regime_of(settings).is_scheduled:
        factory = optimizers[config.optimizer]
        if given["learning_rate"] is None:
            given["learning_rate"] = own_arguments(factory).get("learning_rate")
        if given["learning_rate"] is None:
            raise ValueError(
                f"schedule is {settings.schedule}, and {config.optimizer} has no learning rate of "
                "its own; give learning_rate, the peak"
            )
        base = inspect.signature(factory).parameters.get("base_learning_rate")
        if base is not None and base.default is None:
            given["base_learning_rate"] = given["learning_rate"]
    return {name: value for name, value in given.items() if value is not None}


def hyper_arrays(
    config: RunConfig, optimizers: Mapping[str, Callable] = OPTIMIZERS
) -> dict[str, np.ndarray]:
    """Hyper-parameters of a member as arrays: to an optimizer even a zero is then a variable."""
    given = hyper_parameters(config, optimizers)
    return {name: np.asarray(value, np.float32) for name, value in given.items()}


def tracking_of(
    config: RunConfig, bench: Workbench, options: Options | None = None
) -> Tracking | None:
    """What a run follows along training; None where that is nothing."""
    settings, names = config.settings, config.settings.tracked
    if not names:
        return None
    factory = bench.optimizers[config.optimizer]
    own = dict(own_arguments(factory))
    if config.own_rho is not None:
        own["rho"] = config.own_rho
    known_one = OPTIMIZERS.get(config.optimizer) is factory
    descent = Descent(
        *(config.optimizer if known_one else None, config.sam, settings.clip_norm is not None), own
    )
    return Tracking(names, bench.measures, settings.track_size, options or Options(), descent)


def check_tracking(config: RunConfig, bench: Workbench) -> None:
    """Raise ValueError for a measure to be followed that is not defined for the network."""
    tracking = tracking_of(config, bench)
    for name in () if tracking is None else tracking.names:
        if name in QUANTITIES:
            continue
        params, stats = jax.eval_shape(
            bench.network.init, jax.eval_shape(lambda: jax.random.key(0))
        )
        batch = jax.tree.map(lambda x: x[: tracking.size], tuple(bench.dataset.train))
        arrays = tracking.measures[name].arrays

        def shapes(params, stats, key, arrays=arrays, batch=batch):
            at = Trained(params, stats, params)
            return arrays(bench.network, at, batch, key, tracking.options, budget())

        try:
            jax.eval_shape(shapes, params, stats, jax.random.key(0))
        except ValueError as reason:
            raise ValueError(f"track has {name}, which cannot be followed: {reason}") from None


def beginning(recipe: Recipe, config: RunConfig, bench: Workbench) -> TrainState:
    """State of a run before its first epoch."""
    start = bench.trained.init(streams(config.seed).init)
    state = init_state(recipe, hyper_arrays(config, bench.optimizers), *start)
    tracking = tracking_of(config, bench)
    return state if tracking is None else state._replace(tracked=first_tracked(tracking, start[0]))
