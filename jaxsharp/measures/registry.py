"""Sharpness measures, one file a family, and the registry that commands choose from."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp

from jaxsharp.measures import minimum, neighbourhood, spectrum


@dataclass(frozen=True)
class Options:
    """How the measures are taken."""

    eigenvalue_tol: float = 1e-2
    """Relative residual at which the top eigenvalue has converged."""
    radius: float = 5.0
    """Norm of a random perturbation (5 in study B)."""
    num_perturbations: int = 20
    """Random perturbations of each model (49 in study B)."""

    def check(self) -> None:
        """Raise ValueError for a value that no measure can take."""
        if not 1e-5 <= self.eigenvalue_tol < 1:
            raise ValueError(f"eigenvalue_tol is {self.eigenvalue_tol}; it must be from 1e-5 to 1")
        if not 0 < self.radius < math.inf:
            raise ValueError(f"radius is {self.radius}; it must be a finite number above 0")
        if self.num_perturbations < 2:
            raise ValueError(
                f"num_perturbations is {self.num_perturbations}; it must be at least 2"
            )


class Measure(NamedTuple):
    """One line of ``jaxsharp list``, what its error is, the options it reads, and the measure.

    ``arrays(network, params, stats, batch, key, options, memory)`` is a pure function, mapped over
    the members of a group by one program, each with its part of the ``memory``;
    ``result(network, params, stats, images, arrays)``, on the host, has ``value`` and ``error``,
    among others. ``images`` gives a shape, and no more.
    """

    description: str
    error: str
    options: tuple[str, ...]
    arrays: Callable
    result: Callable

    def settings(self, options: Options) -> str:
        """The options that decide the value, as text for a table."""
        return " ".join(f"{name}={getattr(options, name)}" for name in self.options)


def _traces(network, params, stats, batch, key, options, memory):
    return minimum.group_traces(network, None, memory, params, stats, batch[0])


def _top(network, params, stats, batch, key, options, memory):
    static = (network, options.eigenvalue_tol, spectrum.MAX_PRODUCTS, None, memory)
    return spectrum.eigenpairs(*static, params, stats, batch, key)


def _increases(recompute, network, params, stats, batch, key, options, memory):
    static = (network, options.num_perturbations, recompute, None, None, memory)
    radius = jnp.asarray(options.radius)
    return neighbourhood.loss_increases(*static, params, stats, batch, key, radius)


def _only(from_arrays):
    """Result that the arrays alone decide."""
    return lambda network, params, stats, images, arrays: from_arrays(arrays)


MEASURES: dict[str, Measure] = {
    "minimum_sharpness": Measure(
        "Hessian trace minimized over all rescalings (Ibayashi et al. 2021)",
        "duality gap",
        (),
        _traces,
        minimum.from_traces,
    ),
    "top_eigenvalue": Measure(
        "largest eigenvalue of the Hessian, by Lanczos",
        "residual",
        ("eigenvalue_tol",),
        _top,
        _only(spectrum.from_pairs),
    ),
    "random_perturbation": Measure(
        "mean rise of the loss at random points of a sphere, BatchNorm frozen",
        "standard error",
        ("radius", "num_perturbations"),
        partial(_increases, False),
        _only(neighbourhood.from_increases),
    ),
    "random_perturbation_bn": Measure(
        "the same, BatchNorm statistics recomputed at every point (study B)",
        "standard error",
        ("radius", "num_perturbations"),
        partial(_increases, True),
        _only(neighbourhood.from_increases),
    ),
}
DEFAULT_MEASURES = ("minimum_sharpness", "top_eigenvalue", "random_perturbation")
