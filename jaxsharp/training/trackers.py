"""What is followed along training: by a program of its own, of the members after an epoch.

Curvatures with an edge (`QUANTITIES`, of `measures.edges`), and any measure of the registry. Their
eigenvectors are kept in `TrainState.tracked`; what training computes does not depend on them.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from jaxsharp.core.chunks import mean_over_chunks, numbered
from jaxsharp.core.keys import stream
from jaxsharp.core.memory import Budget, affordable_chunk
from jaxsharp.core.streaming import first
from jaxsharp.measures.contract import Measure, Options, Trained
from jaxsharp.measures.edges.quantities import (
    along_gradient,
    critical_along,
    followed_eigenvalue,
    from_slopes,
    over_batches,
    slope_and_curvature,
)
from jaxsharp.measures.registry import MEASURES
from jaxsharp.networks.batches import in_batches
from jaxsharp.networks.network import Network
from jaxsharp.training.descents import Descent, batch_edges_of, diagonal_of, eigenvalue_edge
from jaxsharp.training.epochs import Data, Recipe, TrainState
from jaxsharp.training.members import over_members
from jaxsharp.training.regimes import changed, objective, rate_factor

# What a column of each is called, after its name.
QUANTITIES = {
    "top_eigenvalue": ("", "_error", "_edge"),
    "preconditioned_eigenvalue": ("", "_error", "_edge"),
    "batch_sharpness": ("", "_error", "_edge", "_edge_large"),
    "directional_sharpness": ("", "_edge"),
    "critical_sharpness": ("", "_error", "_edge"),
}
NAMES = tuple(dict.fromkeys((*QUANTITIES, *MEASURES)))
WITH_BATCHES = ("batch_sharpness", "directional_sharpness", "critical_sharpness")
# The batch sharpness is known to this relative standard error, or from so many batches.
BATCH_RTOL, MOST_BATCHES = 0.05, 100
CRITICAL_RTOL = 0.01
# Share of the examples on which an eigenvector is turned first, where it has at least so many.
TURNED_SHARE, FEWEST_TURNED = 1 / 8, 64


class Tracking(NamedTuple):
    """What is followed: names, the measures among them, examples (None: all), how measures are."""

    names: tuple[str, ...]
    measures: Mapping[str, Measure]
    size: int | None
    options: Options
    descent: Descent

    @property
    def from_initial(self) -> bool:
        """Whether the parameters that training began with are kept."""
        return any(self.measures[n].from_initial for n in self.names if n not in QUANTITIES)


class Situation(NamedTuple):
    """A member after an epoch, as what is followed sees it."""

    recipe: Recipe
    network: Network
    descent: Descent
    state: TrainState
    hyper: dict
    batch: tuple
    rate: Array | None
    steps: Array

    @property
    def iterate(self) -> tuple:
        """Parameters and statistics that training goes on from."""
        return self.state.iterate or (self.state.params, self.state.stats)

    @property
    def is_plain(self) -> bool:
        """Whether steps descend on the loss in evaluation mode at the parameters measured."""
        recipe, stats = self.recipe, jax.tree.leaves(self.state.stats)
        changed = recipe.is_random or recipe.regime.label_smoothing > 0
        # Of batches of another size a loss over whole batches is another.
        changed |= self.network.loss.batch_size not in (None, recipe.batch_size)
        return not (stats or changed or recipe.averaging.is_on)


def columns_of(names: Iterable[str]) -> tuple[str, ...]:
    """Columns of a history that follows these, after those that every history has."""
    ends = {name: QUANTITIES.get(name, ("", "_error")) for name in names}
    return tuple(name + end for name, each in ends.items() for end in each)


def first_tracked(tracking: Tracking, params: PyTree) -> dict[str, PyTree]:
    """`TrainState.tracked` before the first epoch."""
    vectors = {name for name in tracking.names if name.endswith("eigenvalue")} & set(QUANTITIES)
    kept = {name: jax.tree.map(jnp.zeros_like, params) for name in sorted(vectors)}
    return kept | ({"initial": params} if tracking.from_initial else {})


def tracking_program(
    tracking: Tracking, recipe: Recipe, network: Network, mesh: Mesh | None, memory: Budget
) -> Callable:
    """Compiled ``f(states, hyper, keys, due, data) -> (tracked, found)`` of a stack of members.

    ``found`` has by name numbers in the order of `QUANTITIES`, or what `Measure.arrays` returns; of
    a member that is not due zeros. Members follow each other, each with all of the memory.
    """

    def member(state, hyper, key, due, labels, data, memory):
        def followed():
            own = data._replace(labels=labels)
            return follow(tracking, recipe, network, state, hyper, key, own, memory)

        def nothing():
            return state.tracked, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        _, shapes = jax.eval_shape(followed)
        return jax.lax.cond(due, followed, nothing)

    program = over_members(member, mesh, replace(memory, vmapped=False))

    @jax.jit
    def run(states, hyper, keys, due, data):
        return program((states, hyper, keys, due, data.labels), data._replace(labels=()))

    return run


def follow(
    tracking: Tracking,
    recipe: Recipe,
    network: Network,
    state: TrainState,
    hyper: dict,
    key: Array,
    data: Data,
    memory: Budget,
) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    """What is followed of a member: what is kept for the next time, and the numbers.

    Each has random numbers of its own in each epoch. Of a schedule, the rate is that of the last
    step.
    """
    steps = len(recipe.regime.batch_sizes(len(data.labels), recipe.batch_size))
    taken, rate = state.epoch * steps, tracking.descent.rate(hyper)
    if rate is not None and recipe.regime.is_scheduled:
        rate *= rate_factor(recipe.regime, taken - 1, steps, recipe.stopping.max_epochs)
    batch = first((data.images, data.labels), tracking.size)
    options = tracking.options
    here = Situation(recipe, network, tracking.descent, state, hyper, batch, rate, taken)
    kept, found = dict(state.tracked), {}
    for name in tracking.names:
        own = jax.random.fold_in(stream(key, name), state.epoch)
        if name in ("top_eigenvalue", "preconditioned_eigenvalue"):
            start = kept[name]
            kept[name], found[name] = eigenvalue(here, name, start, own, options, memory)
        elif name == "batch_sharpness":
            found[name] = sharpness_of_batches(here, own)
        elif name in QUANTITIES:
            found[name] = along_update(here, name, own)
        else:
            at = Trained(state.params, state.stats, kept.get("initial"))
            arrays = tracking.measures[name].arrays
            found[name] = arrays(network, at, batch, own, options, memory)
    return kept, found


def eigenvalue(
    here: Situation, name: str, start: PyTree, key: Array, options: Options, memory: Budget
) -> tuple[PyTree, tuple]:
    """The next start, and value, residual and edge of an eigenvalue.

    Of the loss in evaluation mode, as the measure; there is an edge where steps descend on that.
    The residual may be sqrt(`Options.eigenvalue_tol`) of the value: where the value is apart from
    the next, its error is near the square of that, elsewhere more, and the value too low. Each
    product is one anew, as few are taken.
    """
    state, descent = here.state, here.descent
    network, batch = in_batches(here.network, here.batch)
    loss = network.frozen_loss(state.stats, batch[1])
    diagonal, scaled = None, name == "preconditioned_eigenvalue"
    if scaled:
        if here.rate is None or not descent.has_preconditioner:
            return start, (jnp.nan,) * 3
        diagonal = diagonal_of(descent, state.opt_state, here.hyper, here.rate)
    share = TURNED_SHARE if TURNED_SHARE * len(batch[1]) >= FEWEST_TURNED else 0.0
    limits = {"tol": math.sqrt(options.eigenvalue_tol), "sample": share, "recompute": True}
    limits |= {"memory": memory, "check": False}
    found = followed_eigenvalue(
        *(loss, state.params, batch), key=key, start=start, diagonal=diagonal, **limits
    )
    edge = jnp.nan
    if here.is_plain and here.rate is not None:
        norm = None
        if descent.needs_gradient:

            def gradient(chunk):
                return jax.grad(loss)(state.params, chunk)

            chunk = affordable_chunk(gradient, batch, memory)
            norm = optax.tree.norm(mean_over_chunks(gradient, batch, chunk))
        edge = eigenvalue_edge(
            *(descent, here.hyper, here.rate, here.steps), preconditioned=scaled, gradient_norm=norm
        )
    return found.vector, (found.value, found.residual, edge)


def training_loss(here: Situation) -> Callable:
    """The loss of a step, in training mode: f(params, batch, key), a new draw for each key.

    Of the network that is measured: that of the steps is the same in a form for many members.
    """
    recipe, network, (_, stats) = here.recipe, here.network, here.iterate
    mean = objective(network.loss, recipe.regime)

    def loss(params, batch, key):
        if recipe.is_random:
            batch = changed(recipe.regime, stream(key, "followed batch"), batch)
        outputs, _ = network.forward(params, stats, batch[0], key)
        return mean(outputs, batch[1])

    return loss


def sharpness_of_batches(here: Situation, key: Array) -> tuple:
    """Mean, standard error and edges of the batch sharpness, of batches as training has them."""
    loss, (params, _) = training_loss(here), here.iterate

    def observe(batch, key):
        own = stream(key, "followed step")
        return along_gradient(lambda point: loss(point, batch, own), params)

    limits = BATCH_RTOL, MOST_BATCHES
    found = over_batches(observe, here.batch, here.recipe.batch_size, key, *limits)
    return found.mean, found.stderr, *batch_edges_of(here.descent, here.hyper, here.rate)


def along_update(here: Situation, name: str, key: Array) -> tuple:
    """Directional or critical sharpness, the latter with its width, and their edge.

    The update is one more that the optimizer would make from its state, by the mean gradient of the
    batches into which the examples are cut in order; the loss is the mean of theirs.
    """
    if here.rate is None or here.descent.takes_batch:
        return (jnp.nan,) * len(QUANTITIES[name])
    recipe, loss, (params, _) = here.recipe, training_loss(here), here.iterate
    size = recipe.batch_size
    whole = len(here.batch[1]) // size * size
    cut = numbered(first(here.batch, whole))

    def mean(fn):
        own = lambda chunk: jax.random.fold_in(key, chunk[1][0])  # noqa: E731
        return mean_over_chunks(lambda chunk: fn(chunk[0], own(chunk)), cut, size)

    def gradient(point):
        return mean(lambda batch, key: jax.grad(loss)(point, batch, key))

    now = here.hyper
    if recipe.regime.is_scheduled:
        now = {**now, "learning_rate": here.rate}
    optimizer = optax.with_extra_args_support(recipe.optimizer(**now))
    extra = {"grad_fn": gradient, "batch": here.batch}
    update, _ = optimizer.update(gradient(params), here.state.opt_state, params, **extra)
    edge = 2 / here.rate
    if name == "critical_sharpness":
        of_all = lambda point: mean(lambda batch, key: loss(point, batch, key))  # noqa: E731
        found = critical_along(of_all, params, update, here.rate, CRITICAL_RTOL)
        return found.value, found.width, edge

    def slopes(batch, key):
        return slope_and_curvature(lambda point: loss(point, batch, key), params, update)

    return from_slopes(*mean(slopes), here.rate), edge
