"""Sharpness measures, one file a family, and the registry that commands choose from."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxsharp.core.choices import LARGEST, shown
from jaxsharp.measures import minimum, neighbourhood, spectrum
from jaxsharp.networks.losses import name_of

SOLVED = 1e-6  # duality gap of a scale problem that is solved, relative to the minimum
# Allowed for the traces, in eps of their dtype, relative: the minimum changes no more than the
# traces do. Measured against float64: 2 for networks that have learned the digits, 350 for one of
# them with its logits multiplied by 30, 260 for SimpleBatch with its weights doubled.
TRACE_ROUNDING = 1000


@dataclass(frozen=True)
class Options:
    """How the measures are taken."""

    eigenvalue_tol: float = 1e-2
    """Relative residual at which the top eigenvalue has converged."""
    eigenvalue_starts: int = 1
    """Random starts of the top eigenvalue; above 1 the largest, and whether another confirms it."""
    radius: float = 5.0
    """Norm of a random perturbation (5 in study B)."""
    num_perturbations: int = 20
    """Random perturbations of each model (49 in study B)."""
    antithetic: bool = True
    """Perturb in pairs u and -u, whose mean is free of the gradient (study B: not)."""

    def check(self) -> None:
        """Raise ValueError for a value that no measure can take."""
        if not 1e-5 <= self.eigenvalue_tol < 1:
            raise ValueError(f"eigenvalue_tol is {self.eigenvalue_tol}; it must be from 1e-5 to 1")
        if self.eigenvalue_starts < 1:
            raise ValueError(
                f"eigenvalue_starts is {self.eigenvalue_starts}; it must be at least 1"
            )
        if not 0 < self.radius < math.inf:
            raise ValueError(f"radius is {self.radius}; it must be a finite number above 0")
        count = self.num_perturbations
        if not 2 <= count <= LARGEST:
            raise ValueError(f"num_perturbations is {shown(count)}; it must be from 2 to {LARGEST}")
        neighbourhood.check_count(count, self.antithetic)


class Record(NamedTuple):
    """What goes into the tables of one measure of one run.

    ``error`` is of the kind that the measure names, ``cost`` in its unit. ``finished``: the value
    is what the measure says it is. One that is not enters no mean and no correlation: an eigenvalue
    that stopped at the product limit or was not confirmed, an infimum that no rescaling attains.
    """

    value: float
    error: float
    finished: bool
    cost: int


UNDEFINED = Record(math.nan, math.nan, False, 0)


class Measure(NamedTuple):
    """One line of ``jaxsharp list``: kind of error, unit of cost, options it reads; the measure.

    ``arrays(network, params, stats, batch, key, options, memory)`` is a pure function, mapped over
    the members of a group by one program, each with its part of the ``memory``;
    ``record(network, params, stats, images, options, arrays)`` makes the `Record` of them on the
    host, or raises ValueError, with the reason, where that is not finite. ``images`` gives a shape,
    and no more.
    """

    description: str
    error: str
    cost: str
    options: tuple[str, ...]
    arrays: Callable
    record: Callable

    def settings(self, options: Options) -> str:
        """The options that decide the value, as text for a table."""
        return " ".join(f"{name}={getattr(options, name)}" for name in self.options)


def _traces(network, params, stats, batch, key, options, memory):
    return minimum.group_traces(network, None, memory, params, stats, batch[0])


def _minimum(network, params, stats, images, options, traces):
    found = minimum.from_traces(network, params, stats, images, traces)
    outputs = jax.eval_shape(network.evaluate, params, stats, images[:1])
    eps = float(jnp.finfo(jax.tree.leaves(traces)[0].dtype).eps)
    solved = found.error <= SOLVED * found.value
    error = found.error + TRACE_ROUNDING * eps * found.value
    return Record(found.value, error, found.attained and solved, 1 + outputs.shape[-1])


def _top(network, params, stats, batch, key, options, memory):
    limits = (options.eigenvalue_tol, spectrum.MAX_PRODUCTS)
    static = (network, *limits, None, options.eigenvalue_starts, memory)
    return spectrum.eigenvalues(*static, params, stats, batch, key)


def _largest(network, params, stats, images, options, found):
    top = spectrum.from_starts(found)
    return Record(top.value, top.error, top.finished, top.num_products)


def _increases(recompute, network, params, stats, batch, key, options, memory):
    count = (options.num_perturbations, options.antithetic)
    static = (network, *count, recompute, None, None, memory)
    radius = jnp.asarray(options.radius)
    return neighbourhood.loss_increases(*static, params, stats, batch, key, radius)


def _mean(network, params, stats, images, options, increases):
    rise = neighbourhood.from_increases(increases, options.antithetic)
    return Record(rise.value, rise.error, True, len(rise.increases) + 1)


MEASURES: dict[str, Measure] = {
    "minimum_sharpness": Measure(
        "Hessian trace minimized over all rescalings (Ibayashi et al. 2021)",
        "duality gap and rounding of the traces",
        "passes over the data",
        (),
        _traces,
        _minimum,
    ),
    "top_eigenvalue": Measure(
        "largest eigenvalue of the Hessian, by Lanczos",
        "residual",
        "Hessian products",
        ("eigenvalue_tol", "eigenvalue_starts"),
        _top,
        _largest,
    ),
    "random_perturbation": Measure(
        "mean rise of the loss at random points of a sphere, BatchNorm frozen",
        "standard error",
        "losses over the data",
        ("radius", "num_perturbations", "antithetic"),
        partial(_increases, False),
        _mean,
    ),
    "random_perturbation_bn": Measure(
        "the same, BatchNorm statistics recomputed at every point (study B)",
        "standard error",
        "losses over the data",
        ("radius", "num_perturbations", "antithetic"),
        partial(_increases, True),
        _mean,
    ),
}
DEFAULT_MEASURES = ("minimum_sharpness", "top_eigenvalue", "random_perturbation")


def settings_of(name: str, options: Options) -> str:
    """The options that decide the value of a measure; of the user's own there are none."""
    return MEASURES[name].settings(options) if name in MEASURES else ""


def place_of(name: str) -> int:
    """Where a measure stands in tables: in the order of the registry, the user's own at the end."""
    return list(MEASURES).index(name) if name in MEASURES else len(MEASURES)


@cache  # so that one function is one static argument of compiled programs
def own_measure(fn: Callable) -> Measure:
    """The user's own measure: ``fn(network, params, stats, batch, key)``, a function of arrays.

    It returns a number, or a number and its error, and is compiled and mapped over runs, so that it
    may use JAX alone.
    """

    def arrays(network, params, stats, batch, key, options, memory):
        found = fn(network, params, stats, batch, key)
        value, error = found if isinstance(found, tuple) else (found, jnp.nan)
        if jnp.shape(value) or jnp.shape(error):
            raise ValueError(
                f"{name_of(fn)} returns shapes {jnp.shape(value)} and {jnp.shape(error)}; it must "
                "return a number, or a number and its error"
            )
        return jnp.asarray(value), jnp.asarray(error)

    def record(network, params, stats, images, options, found):
        value, error = map(float, found)
        if not math.isfinite(value):
            raise ValueError(f"its value is {value}")
        return Record(value, error, True, 1)

    text = (fn.__doc__ or "the user's own").strip().splitlines()[0]
    return Measure(text, "of the measure's own kind", "calls", (), arrays, record)
