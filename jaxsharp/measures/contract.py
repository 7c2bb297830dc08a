"""What a measure is to tables, studies and commands: one contract for all of them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxtyping import PyTree
from scipy import special

from jaxsharp.core.choices import LARGEST, at_least_one, shown

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
    """Relative standard error at which a measure that is a mean over examples, groups of them,
    directions, subspaces or probes has taken enough of them, in the place of the numbers below; one
    that cannot reach it is not finished. None for all examples and these numbers."""
    eigenvalue_tol: float = 1e-2
    """Relative residual at which the top eigenvalue has converged."""
    eigenvalue_starts: int = 1
    """Random starts of the top eigenvalue; above 1 the largest, and whether another confirms it."""
    eigenvalue_sample: float = 0.0
    """Share of the examples over which most products of the first start are; 0: over all."""
    eigenvalue_count: int = 5
    """Eigenvalues of the sum of the largest, the last of which is the ratio's."""
    num_probes: int = 30
    """Random vectors of the Hessian's trace and Frobenius norm."""
    density_probes: int = 10
    """Random vectors of the density of eigenvalues."""
    density_steps: int = 40
    """Hessian products of each, which resolve the density."""
    shift: float = 1e-3
    """c of the soft rank and the log-determinant, in units of the eigenvalues."""
    radius: float = 5.0
    """Norm of a random perturbation (5 in study B)."""
    num_perturbations: int = 20
    """Random perturbations of each model (49 in study B)."""
    antithetic: bool = True
    """Perturb in pairs u and -u, whose mean is free of the gradient (study B: not)."""
    sigma: float = 0.01
    """Standard deviation of normal noise, the same for every parameter."""
    sigma_relative: float = 0.1
    """Standard deviation of noise relative to the parameter, or norm to that of its filter."""
    lpf_sigma: float = 0.01
    """Standard deviation of the low-pass filter (Bisla et al. 2022)."""
    lpf_draws: int = 100
    """Draws of the low-pass filter."""
    rho_l2: float = 0.05
    """Radius of the l2 ball of worst cases (Foret et al. 2021)."""
    rho_linf: float = 0.001
    """Radius of the l-inf ball of worst cases."""
    rho_l2_adaptive: float = 0.5
    """Radius of the adaptive l2 ball, relative to |theta| (Kwon et al. 2021)."""
    rho_linf_adaptive: float = 0.001
    """Radius of the adaptive l-inf ball, relative to |theta| (Andriushchenko et al. 2023)."""
    ascent_steps: int = 20
    """Steps of an ascent to the worst case (20 in Andriushchenko et al. 2023)."""
    ascent_starts: int = 1
    """Ascents, of which the first starts at the parameters, others at random points of the ball."""
    worst_examples: int = 1024
    """Examples of worst cases at most (1,024 in Andriushchenko et al. 2023)."""
    group_size: int = 128
    """Examples m of a group with a worst case of its own (128 in Andriushchenko et al. 2023)."""
    box_eps: float = 1e-3
    """Box of Keskar et al. 2017, |d| <= box_eps (|theta| + 1); they took 0.001 and 0.0005."""
    subspace_size: int = 100
    """Dimension of the random subspaces of Keskar et al. 2017."""
    subspaces: int = 5
    """Random subspaces, over which the standard error is."""
    rise: float = 0.1
    """Rise of the loss that is looked for along directions, and under noise, in nats."""
    delta: float = 0.01
    """Probability with which the PAC-Bayes bound may fail."""

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
        if not 0 <= self.eigenvalue_sample < 1:
            raise ValueError(
                f"eigenvalue_sample is {self.eigenvalue_sample}; it must be from 0 to below 1"
            )
        for name, least in LEAST.items():
            if not least <= getattr(self, name) <= LARGEST:
                value = shown(getattr(self, name))
                raise ValueError(f"{name} is {value}; it must be from {least} to {LARGEST}")
        for name in POSITIVE:
            if not 0 < getattr(self, name) < math.inf:
                value = getattr(self, name)
                raise ValueError(f"{name} is {value}; it must be a finite number above 0")
        for name in DRAWS:
            count = getattr(self, name)
            if not 2 <= count <= LARGEST:
                raise ValueError(f"{name} is {shown(count)}; it must be from 2 to {LARGEST}")
            check_count(count, self.antithetic, name)
        for name in COUNTS:
            at_least_one(name, getattr(self, name))
        if not 0 < self.delta < 1:
            raise ValueError(f"delta is {self.delta}; it must lie between 0 and 1")


# Options that are finite and above 0; those that count; of these, random draws.
POSITIVE = (
    *("radius", "sigma", "sigma_relative", "lpf_sigma", "box_eps", "rise", "shift"),
    *("rho_l2", "rho_linf", "rho_l2_adaptive", "rho_linf_adaptive"),
)
COUNTS = ("ascent_steps", "ascent_starts", "worst_examples", "group_size", "subspace_size")
# Of these, below two random vectors there is no standard error.
LEAST = {
    **{"eigenvalue_count": 2, "num_probes": 2, "density_probes": 2, "density_steps": 1},
    "subspaces": 2,
}
DRAWS = ("num_perturbations", "lpf_draws")


def check_count(count: int, antithetic: bool, name: str = "num_perturbations") -> None:
    """Raise ValueError for a number of perturbations that gives no standard error."""
    if antithetic and (count < 4 or count % 2):
        raise ValueError(
            f"{name} is {count}; in pairs it must be even and at least 4, "
            "or antithetic False for independent ones"
        )
    if count < 2:
        raise ValueError(f"{name} is {count}; a standard error needs at least 2")


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
    take shapes, and no more. ``from_initial``: it is not defined without ``at.initial``. Measures
    of one ``stream`` compute the same with the same random key, once for all of them.
    ``code`` is a digest of the user's own, which a name alone does not tell from another function.
    ``per_example``: it is of single examples, which a loss over whole batches has no values for.
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
    stream: str = ""
    code: str = ""
    per_example: bool = False

    def settings(self, options: Options) -> str:
        """The options that decide the value, as text for a table."""
        own = [f"code={self.code}"] if self.code else []
        return " ".join([*(f"{name}={getattr(options, name)}" for name in self.options), *own])

    def terms(self, record: Record, options: Options) -> int:
        """Independent terms that the value is the mean of: pairs, directions, groups, examples."""
        if "group_size" in self.options:
            if options.measure_rtol is not None:  # each of the groups had its ascents
                ascents = options.ascent_starts if "ascent_starts" in self.options else 1
                return record.directions // ascents
            return record.examples // max(1, min(options.group_size, record.examples))
        if not record.directions:
            return record.examples
        paired = "antithetic" in self.options and options.antithetic
        return record.directions // 2 if paired else record.directions

    def interval(
        self, record: Record, options: Options, confidence: float = 0.95
    ) -> tuple[float, float]:
        """The ends of the interval that ``record`` states for the exact value.

            value -+ error                        of residuals, certificates and rounding
            value exp(-+ h / value)               of a standard error, h = t error < |value|
            value - h to value + (e - 1) h        where h is larger

        t is the quantile of Student's t with `terms` - 1 degrees of freedom. The second is the
        interval of the logarithm, to first order, and the third goes on from it: a mean of few
        terms of which most are small, as rises of a loss, is skewed, and value -+ h covers it less.
        NaN where the record states no error.

        Raises ValueError for a confidence outside of (0, 1).
        """
        if not 0 < confidence < 1:
            raise ValueError(f"confidence is {confidence}; it must be above 0 and below 1")
        value, error = record.value, record.error
        if record.exact or error == 0 or not self.error.startswith("standard error"):
            return value - error, value + error
        degrees = self.terms(record, options) - 1
        quantile = special.stdtrit(degrees, (1 + confidence) / 2) if degrees else math.nan
        half = float(quantile) * error
        if half < abs(value):
            return value * math.exp(-half / value), value * math.exp(half / value)
        return value - half, value + math.expm1(1) * half
