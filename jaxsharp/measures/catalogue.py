"""Measures by name of one network: of the package, and the user's own."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PyTree

from jaxsharp.core.choices import checked, known, shown
from jaxsharp.core.chunks import check_pair
from jaxsharp.core.keys import stream
from jaxsharp.core.memory import Budget, budget, held
from jaxsharp.core.programs import own_settings
from jaxsharp.measures.contract import UNDEFINED, Measure, Options, Record, Trained
from jaxsharp.measures.registry import DEFAULT_MEASURES, MEASURES, own_measure
from jaxsharp.networks.checks import FEW, check_alone, check_fit, check_own
from jaxsharp.networks.losses import Loss, loss_of, name_of
from jaxsharp.networks.network import Network, fast_here


@own_settings()
def measure(
    network: Network,
    params: PyTree,
    stats: PyTree,
    batch: Any,
    names: Sequence[str | Callable] = DEFAULT_MEASURES,
    *,
    key: Array,
    loss: str | Callable | Loss | None = None,
    options: Options | None = None,
    memory: Budget | None = None,
    initial: PyTree | None = None,
) -> dict[str, Record]:
    """Take measures of a trained network over ``batch`` = (inputs, targets); a `Record` by name.

    ``names`` are of `MEASURES`, or the user's own functions (`registry.own_measure`), called by
    their ``__name__``. The loss is the network's, or ``loss``: one of `networks.LOSSES` by name or
    the user's own. ``stats`` is {} for a network that has none. ``initial`` are the parameters that
    training began with, for measures that ask for them. Each measure has a random key of its own,
    a stream of ``key``, but for those that share what is computed (`Measure.stream`).

    A measure that is not defined for the network, or not finite, is NaN and not finished, and a
    warning says why; the others are taken. Programs are compiled once for all parameters and data
    of the same shapes. Raises ValueError for names, options and data that nothing could be measured
    with, before anything compiles.
    """
    options = checked(options or Options())
    if isinstance(names, str):
        raise ValueError(f"names is {shown(names)}; it must be a list of measures")
    wanted: dict[str, Measure] = {}
    for name in names:
        called = name_of(name) if callable(name) else known("measure", name, MEASURES)
        if called in wanted or (callable(name) and called in MEASURES):
            raise ValueError(f"two measures are called {called}; rename the function")
        wanted[called] = own_measure(name) if callable(name) else MEASURES[called]
    if loss is not None:
        network = network._replace(loss=loss_of(loss))
    batch = checked_batch(network, params, stats, batch)
    network = fast_here(network)
    check_alone(network, params, stats, batch[0])
    memory = memory or budget()
    static, at = (network, options, memory), Trained(params, stats, initial)
    inputs, targets = batch
    given = (held(inputs, memory) if isinstance(inputs, np.ndarray) else inputs), targets
    table, shared = {}, {}
    for name, each in wanted.items():
        computed = each.stream or each
        try:
            check_initial(each, at)
            if computed not in shared:
                found = compiled(each.arrays, *static, at, given, stream(key, each.stream or name))
                shared[computed] = jax.device_get(found)
            found = shared[computed]
            table[name] = each.record(network, at, batch, options, found)
        except ValueError as reason:
            warnings.warn(f"no {name}: {reason}", stacklevel=2)
            table[name] = UNDEFINED
    return table


@partial(jax.jit, static_argnums=range(4))
def compiled(
    arrays: Callable,
    network: Network,
    options: Options,
    memory: Budget,
    at: Trained,
    batch: tuple[Any, Any],
    key: Array,
) -> PyTree:
    """What a measure computes on the device, compiled once for all models of one network."""
    return arrays(network, at, batch, key, options, memory)


def check_initial(measure: Measure, at: Trained) -> None:
    """Raise ValueError for a measure of the way from the initialization where that is not known."""
    if not measure.from_initial:
        return
    if at.initial is None:
        raise ValueError("it needs the parameters at initialization; give them as initial=")
    shapes = [jax.tree.map(np.shape, tree) for tree in (at.initial, at.params)]
    if shapes[0] != shapes[1]:
        raise ValueError("initial has other names or shapes than params; valid are the same")


def checked_batch(
    network: Network, params: PyTree, stats: PyTree, batch: Any
) -> tuple[Array | np.ndarray, Array | np.ndarray]:
    """Inputs and targets as arrays, of which the network has a loss; ValueError for others."""
    check_pair(batch)
    inputs, targets = (x if isinstance(x, jax.Array) else np.asarray(x) for x in batch)
    outputs = jax.eval_shape(network.evaluate, params, stats, inputs[:FEW])
    check_fit(network.loss, outputs, targets)
    check_own(network, params, stats, inputs, targets)
    return inputs, targets
