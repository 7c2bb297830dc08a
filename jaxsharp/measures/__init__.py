"""Sharpness measures, one file a family, and the registry that commands choose from."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from jaxsharp.measures.minimum import minimum_sharpness
from jaxsharp.measures.neighbourhood import random_perturbation
from jaxsharp.measures.spectrum import top_eigenvalue


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
    """One line of ``jaxsharp list``, what its error is, the options it reads, and the function.

    ``function(network, params, stats, batch, key, options)`` returns a result with ``value``
    and ``error``, among others.
    """

    description: str
    error: str
    options: tuple[str, ...]
    function: Callable

    def settings(self, options: Options) -> str:
        """The options that decide the value, as text for a table."""
        return " ".join(f"{name}={getattr(options, name)}" for name in self.options)


def _minimum(network, params, stats, batch, key, options):
    return minimum_sharpness(network, params, stats, batch)


def _top(network, params, stats, batch, key, options):
    return top_eigenvalue(network, params, stats, batch, key, tol=options.eigenvalue_tol)


def _random(network, params, stats, batch, key, options, recompute=False):
    radius, num = options.radius, options.num_perturbations
    return random_perturbation(
        *(network, params, stats, batch, key),
        radius=radius,
        num_perturbations=num,
        recompute=recompute,
    )


def _random_recomputed(network, params, stats, batch, key, options):
    return _random(network, params, stats, batch, key, options, recompute=True)


MEASURES: dict[str, Measure] = {
    "minimum_sharpness": Measure(
        "Hessian trace minimized over all rescalings (Ibayashi et al. 2021)",
        "duality gap",
        (),
        _minimum,
    ),
    "top_eigenvalue": Measure(
        "largest eigenvalue of the Hessian, by Lanczos", "residual", ("eigenvalue_tol",), _top
    ),
    "random_perturbation": Measure(
        "mean rise of the loss at random points of a sphere, BatchNorm frozen",
        "standard error",
        ("radius", "num_perturbations"),
        _random,
    ),
    "random_perturbation_bn": Measure(
        "the same, BatchNorm statistics recomputed at every point (study B)",
        "standard error",
        ("radius", "num_perturbations"),
        _random_recomputed,
    ),
}
DEFAULT_MEASURES = ("minimum_sharpness", "top_eigenvalue", "random_perturbation")
