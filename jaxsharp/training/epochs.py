"""Training as a pure function of (hyper-parameters, key): one compiled program an epoch.

A *member* is one training run. A program trains a stack of members (`members`) that share a
network, an optimizer and a batch size; whatever is numeric (seed, learning rate, rho, labels)
differs.
"""

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

from jaxsharp.core.chunks import mean_over_chunks
from jaxsharp.core.keys import stream
from jaxsharp.core.memory import Budget, affordable_chunk, budget
from jaxsharp.core.streaming import Streamed, following, is_streamed, rows
from jaxsharp.networks.batches import in_batches, of_batches
from jaxsharp.networks.losses import Loss
from jaxsharp.networks.network import Network
from jaxsharp.training.averages import Averaging, after_epoch, after_step, own_statistics
from jaxsharp.training.groups import of_groups, summed
from jaxsharp.training.members import over_members, split_examples
from jaxsharp.training.precision import forward_in
from jaxsharp.training.regimes import Regime, changed, objective, rate_factor


class Streams(NamedTuple):
    """Independent random keys of one run."""

    init: Array
    order: Array
    noise: Array
    measure: Array


def streams(seed: int) -> Streams:
    """The keys of the run with this seed."""
    return Streams(*jax.random.split(jax.random.key(seed), 4))


class Data(NamedTuple):
    """Device arrays: inputs, shared by the members; training targets one row a member.

    Inputs that the device does not hold are streamed from the host.
    """

    images: Shaped[Array, "n ..."] | Streamed
    labels: Shaped[Array, "..."] | tuple[()]
    test_images: Shaped[Array, "t ..."] | Streamed
    test_labels: Shaped[Array, "t ..."]


class Stopping(NamedTuple):
    """When a member stops, judged after every epoch by its training loss in evaluation mode.

    Converged: loss < ``loss_below`` (study A), or |change of the loss| < ``change_below`` in
    ``patience`` consecutive epochs (study B); either is off when None. Diverged: the loss is not
    finite. Otherwise the member ends, unconverged, after ``max_epochs``.
    """

    max_epochs: int
    loss_below: float | None = None
    change_below: float | None = None
    patience: int = 5


class TrainState(NamedTuple):
    """Everything that continues a member bit for bit, given its seed and hyper-parameters.

    ``params`` and ``stats`` are what is evaluated and measured. Where they are an average
    (`averages.Averaging`), ``iterate`` has those that training goes on from, else nothing.
    ``tracked`` is what `trackers` keeps from one time to the next; no epoch sees it.
    """

    params: PyTree
    stats: PyTree
    opt_state: PyTree
    epoch: Int[Array, "*members"]
    loss: Float[Array, "*members"]
    calm_epochs: Int[Array, "*members"]
    converged: Bool[Array, "*members"]
    diverged: Bool[Array, "*members"]
    iterate: PyTree = ()
    tracked: PyTree = ()


class Metrics(NamedTuple):
    """Loss and accuracy (fraction; NaN for losses without) on both splits in evaluation mode."""

    train_loss: Float[Array, "*members"]
    train_accuracy: Float[Array, "*members"]
    test_loss: Float[Array, "*members"]
    test_accuracy: Float[Array, "*members"]


class Recipe(NamedTuple):
    """What the members of one program share.

    ``optimizer(**hyper)`` makes the transformation, a sharpness-aware one included: it may take
    ``grad_fn`` and ``batch`` as `optimizers.sharpness.sharpness_aware` has it. With
    ``split_batches`` the devices of a member share each of its whole batches. A regime with a
    schedule multiplies the ``learning_rate`` that ``hyper`` then must have. ``compute`` is one of
    `precision.COMPUTE`. A variant that ``cuts`` the batch of a step has `groups.of_groups`.
    """

    network: Network
    optimizer: Callable[..., optax.GradientTransformation]
    batch_size: int
    stopping: Stopping
    split_batches: bool = False
    regime: Regime = Regime()
    averaging: Averaging = Averaging()
    compute: str = "float32"
    cuts: bool = False

    def gradient(self, loss: Loss) -> Callable:
        """`training_gradient` of the network and what the regime makes of a loss."""
        return training_gradient(self.network, objective(loss, self.regime), self.compute)

    @property
    def is_random(self) -> bool:
        """Whether a step draws random numbers."""
        return self.network.is_random or self.regime.is_random


def init_state(recipe: Recipe, hyper: dict, params: PyTree, stats: PyTree) -> TrainState:
    """State of one member before its first epoch."""
    opt_state = recipe.optimizer(**hyper).init(params)
    zero, no = jnp.int32(0), jnp.array(False)
    iterate = (params, stats) if recipe.averaging.is_on else ()
    return TrainState(params, stats, opt_state, zero, jnp.float32(math.inf), zero, no, no, iterate)


def is_active(state: TrainState, stopping: Stopping) -> Bool[Array, "*members"]:
    """Whether a member has epochs left to train."""
    return ~state.converged & ~state.diverged & (state.epoch < stopping.max_epochs)


@lru_cache(maxsize=8)
def training_gradient(network: Network, loss: Callable, compute: str = "float32") -> Callable:
    """Return ``f(params, stats, batch, key) -> ((loss, stats), grads)`` in training mode."""
    forward = forward_in(compute, network)

    def mean(params, stats, batch, key):
        inputs, targets = batch
        outputs, stats = forward(params, stats, inputs, key)
        return loss(outputs, targets), stats

    # Compiled as a part of the step. A network is traced once for all calls, and all optimizers.
    return jax.jit(jax.value_and_grad(mean, has_aux=True))


@lru_cache(maxsize=8)
def evaluation(network: Network) -> Callable:
    """Return ``f(params, stats, batch, memory) -> (loss, accuracy)`` in evaluation mode.

    A loss over whole batches has their mean, over the fixed batches of the data (`in_batches`).
    """
    batched = of_batches(network)
    loss = batched.loss
    kinds = tuple(kind for kind in (loss.mean, loss.accuracy) if kind is not None)

    @jax.jit
    def means(params, stats, total, chunk):
        outputs = batched.evaluate(params, stats, chunk[0])
        return tuple(loss.in_parts(mean, total)(outputs, chunk[1]) for mean in kinds)

    def evaluate(params, stats, batch, memory):
        _, batch = in_batches(network, batch)
        chunk_means = partial(means, params, stats, loss.total(batch[1]))
        found = mean_over_chunks(chunk_means, batch, affordable_chunk(chunk_means, batch, memory))
        return found if len(found) == 2 else (*found, jnp.full_like(found[0], jnp.nan))

    return evaluate


def train_epoch(
    recipe: Recipe, state: TrainState, hyper: dict, key: Array, data: Data, memory: Budget
) -> tuple[TrainState, Metrics]:
    """One epoch of one member: n // batch_size steps over a fresh permutation, then evaluation.

    The permutation is drawn from ``fold_in(key, epoch)``; the n % batch_size examples at its end
    are left out of this epoch, or are one more step (`Regime.last_batch`). BatchNorm statistics
    are those of the clean pass, whatever other gradients a sharpness-aware optimizer takes. What a
    step draws, of ``stream(key, "step")`` by epoch and step, is the same in all of its gradients,
    of groups in those of each. An average is evaluated in the place of the parameters, with
    statistics of its own over the training inputs, not augmented.
    """
    regime, averaging, network = recipe.regime, recipe.averaging, recipe.network
    value_and_grad = recipe.gradient(network.loss)
    num_examples = data.labels.shape[0]
    whole = num_examples // recipe.batch_size
    steps = len(regime.batch_sizes(num_examples, recipe.batch_size))
    step_keys = jax.random.fold_in(stream(key, "step"), state.epoch)

    def step(carry, indices_and_place):
        params, stats, opt_state, average = carry
        indices, then, place = indices_and_place
        batch = rows(data.images, indices, then), data.labels[indices]
        if recipe.split_batches and len(indices) == recipe.batch_size:
            batch = split_examples(batch)
        step_key, now, count = None, hyper, state.epoch * steps + place
        if recipe.is_random:
            step_key = jax.random.fold_in(step_keys, place)
            batch = changed(regime, stream(step_key, "batch"), batch)
        if regime.is_scheduled:
            factor = rate_factor(regime, count, steps, recipe.stopping.max_epochs)
            now = {**hyper, "learning_rate": hyper["learning_rate"] * factor}
        optimizer = optax.with_extra_args_support(recipe.optimizer(**now))

        def grad_fn(params, batch=batch):
            return value_and_grad(params, stats, batch, step_key)[1]

        (_, new_stats), grads = value_and_grad(params, stats, batch, step_key)
        extra = {"grad_fn": grad_fn, "batch": batch}
        if recipe.cuts:
            step_args = network.loss, stats, batch, step_key
            own = recipe.gradient(summed(network.loss))
            extra = of_groups(own, *step_args, draws=network.is_random)
        updates, opt_state = optimizer.update(grads, opt_state, params, **extra)
        params = optax.apply_updates(params, updates)
        average = after_step(averaging, average, params, count, steps)
        return (params, new_stats, opt_state, average), None

    order = jax.random.permutation(jax.random.fold_in(key, state.epoch), num_examples)
    batches = order[: whole * recipe.batch_size].reshape(whole, recipe.batch_size)
    iterate = state.iterate or (state.params, state.stats)
    average = state.params if averaging.is_on else ()
    carry = (*iterate, state.opt_state, average)
    then = following(batches) if is_streamed(data.images) else None
    carry, _ = jax.lax.scan(step, carry, (batches, then, jnp.arange(whole)))
    if steps > whole:
        carry, _ = step(carry, (order[whole * recipe.batch_size :], None, jnp.int32(whole)))
    params, stats, opt_state, average = carry
    iterate = ()
    if averaging.is_on:
        iterate = (params, stats)
        params = after_epoch(averaging, average, params, state.epoch + 1)
        stats = own_statistics(network, params, stats, data.images, memory)
    evaluate = evaluation(network)
    metrics = Metrics(
        *evaluate(params, stats, (data.images, data.labels), memory),
        *evaluate(params, stats, (data.test_images, data.test_labels), memory),
    )
    after = judge(recipe.stopping, state, params, stats, opt_state, metrics.train_loss)
    converged = after.converged & averaging.has_begun(after.epoch)
    return after._replace(converged=converged, iterate=iterate), metrics


def judge(stopping: Stopping, old: TrainState, params, stats, opt_state, loss) -> TrainState:
    """The state after an epoch that ended with training loss ``loss``."""
    converged = jnp.array(False)
    if stopping.loss_below is not None:
        converged = loss < stopping.loss_below
    calm = jnp.int32(0)
    if stopping.change_below is not None:
        calm = jnp.where(jnp.abs(loss - old.loss) < stopping.change_below, old.calm_epochs + 1, 0)
        converged = converged | (calm >= stopping.patience)
    diverged = ~jnp.isfinite(loss)
    return TrainState(params, stats, opt_state, old.epoch + 1, loss, calm, converged, diverged)


def epoch_program(
    recipe: Recipe, mesh: Mesh | None = None, memory: Budget | None = None
) -> Callable:
    """Compiled ``(states, hyper, order_keys, data) -> (states, metrics)`` of a stack of members.

    A member that has stopped keeps its state, and its metrics are NaN. What a member computes
    does not depend on its neighbours. They evaluate in chunks that fit `memory` together.
    """
    nothing = Metrics(*[jnp.float32(math.nan)] * 4)

    def member(state, hyper, key, labels, data, memory):
        return jax.lax.cond(
            is_active(state, recipe.stopping),
            lambda: train_epoch(recipe, state, hyper, key, data._replace(labels=labels), memory),
            lambda: (state, nothing),
        )

    epoch = over_members(member, mesh, memory or budget())

    @jax.jit
    def run(states, hyper, keys, data):
        return epoch((states, hyper, keys, data.labels), data._replace(labels=()))

    return run
