"""What a measure is to tables, studies and commands: one contract for all of them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxtyping import PyTree

from jaxsharp.core.choices import LARGEST, shown

# What may leave a measure unchanged, each of which `tests/measures` applies to every measure. The
# first three are other ways to write the same function down: the parameters at initialization are
# written in the same way.
SYMMETRIES = {
    "layer_rescaling": "rescalings of whole layers that leave the function unchanged",
    "unit_rescaling": "rescalings of single hidden units that leave the function unchanged",
    "permutation": "another order of the units of a hidden layer",
    "logit_shift": "the same number added to all logits",
    "logit_scale": "all logits multiplied by a number",
    "example_order": "another order of the examples",
    "chunking": "another number of examples at a time",
}
EVERY = frozenset(SYMMETRIES)
# What all measures of a function of parameters share that see neither order nor pieces of the data.
OF_DATA = frozenset({"example_order", "chunking"})


@dataclass(frozen=True)
class Options:
    """How the measures are taken."""

    measure_rtol: float | None = None
    """Relative standard error at which a measure that is a mean over examples has taken enough of
    them, where it can be sampled; None for all examples, exactly."""
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
        if self.measure_rtol is not None and not 0 < self.measure_rtol < 1:
            raise ValueError(
                f"measure_rtol is {self.measure_rtol}; it must be above 0 and below 1, or None for "
                "exact measures"
            )
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
        check_count(count, self.antithetic)


def check_count(num_perturbations: int, antithetic: bool) -> None:
    """Raise ValueError for a number of perturbations that gives no standard error."""
    if antithetic and (num_perturbations < 4 or num_perturbations % 2):
        raise ValueError(
            f"num_perturbations is {num_perturbations}; in pairs it must be even and at least 4, "
            "or antithetic False for independent ones"
        )
    if num_perturbations < 2:
        raise ValueError(
            f"num_perturbations is {num_perturbations}; a standard error needs at least 2"
        )


class Trained(NamedTuple):
    """A trained network's arrays: parameters, statistics, and the parameters it began with.

    ``initial`` is None where nobody knows them.
    """

    params: PyTree
    stats: PyTree
    initial: PyTree | None = None


class Record(NamedTuple):
    """What goes into the tables of one measure of one run.

    ``error`` is of the kind that the measure names, ``cost`` in its unit. ``finished``: the value
    is what the measure says it is. One that is not enters no mean and no correlation: an eigenvalue
    that stopped at the product limit or was not confirmed, an infimum that no rescaling attains.

    ``examples`` and ``directions`` are those it was computed from, of the data and of parameter
    space; ``exact``: nothing was drawn at random, so that only rounding, or what ``error`` says of
    a solver, is between ``value`` and the definition.
    """

    value: float
    error: float
    finished: bool
    cost: int
    examples: int
    directions: int
    exact: bool


UNDEFINED = Record(math.nan, math.nan, False, 0, 0, 0, False)


class Measure(NamedTuple):
    """A line of the catalogue, and the functions that take the measure.

    ``description`` says what it is, ``reference`` where it is defined, ``unit`` what it is counted
    in; ``error`` is the kind of error, ``cost`` the unit of cost, ``options`` the `Options` that it
    reads, ``invariances`` the names in `SYMMETRIES` of what leaves it unchanged.

    ``arrays(network, at, batch, key, options, memory)``, with ``at`` a `Trained`, is a pure
    function, mapped over the members of a group by one program, each with its part of the
    ``memory``; ``record(network, at, batch, options, arrays)`` makes the `Record` of them on the
    host, or raises ValueError, with the reason, where that is not finite. Of the ``batch`` it may
    take shapes, and no more. ``from_initial``: it is not defined without ``at.initial``.
    """

    description: str
    reference: str
    unit: str
    error: str
    cost: str
    options: tuple[str, ...]
    invariances: frozenset[str]
    arrays: Callable[..., Any]
    record: Callable[..., Record]
    from_initial: bool = False

    def settings(self, options: Options) -> str:
        """The options that decide the value, as text for a table."""
        return " ".join(f"{name}={getattr(options, name)}" for name in self.options)
