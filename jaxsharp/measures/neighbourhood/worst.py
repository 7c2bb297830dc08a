"""Worst-case sharpness: the largest rise of the loss in a ball around the parameters.

    max_{||d / c||_p <= rho} L_S(theta + d) - L_S(theta),    a mean over groups S of m examples

in coordinates z = d / c, entry by entry: c = 1 in plain measures and c = |theta| in adaptive ones
(Andriushchenko et al. 2023), where an entry of 0 stays. All examples may be one group.

sam_sharpness          one step to the boundary of the l2 ball: SAM's perturbation (Foret et al.)
asam_sharpness         the same with c = |theta|: d = rho c^2 g / ||c g||, ASAM's (Kwon et al.)
pgd_l2, pgd_linf       projected gradient ascent
apgd_*_adaptive        Auto-PGD with c = |theta|; _normalized of logits of norm 1 (Andriushchenko)

The maximum is that of an ascent, a lower bound of the true one. To a stated error each group is
drawn anew from all examples: the error is of the mean over all groups of m of these data.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, ScalarLike

from jaxsharp.core.choices import at_least_one, known
from jaxsharp.core.chunks import check_pair, num_examples
from jaxsharp.core.keys import stream
from jaxsharp.core.memory import Budget, budget
from jaxsharp.core.programs import own_settings
from jaxsharp.core.streaming import rows, whole
from jaxsharp.core.trees import widen
from jaxsharp.measures.contract import EVERY, Measure, Options, Record, Trained
from jaxsharp.measures.neighbourhood.ascents import BALLS, Ascent, apgd, ascended, one_step, pgd
from jaxsharp.measures.neighbourhood.losses import value_and_grad_around, with_normalized_logits
from jaxsharp.measures.neighbourhood.sampling import SampledMean, checked_mean, sampled_mean, subset
from jaxsharp.networks.checks import check_alone
from jaxsharp.networks.network import Network

ASCENTS: dict[str, Ascent] = {"one_step": one_step, "pgd": pgd, "apgd": apgd}


class WorstCase(NamedTuple):
    """Mean over groups of the largest rise found, its standard error, and the rise of each group.

    ``error`` is 0 for all examples in one group, and NaN for one group of a part of them. It says
    nothing of how far an ascent stays below the maximum. The more of the data the groups take, the
    more it is too large for these data: it is that of groups of examples not seen as well.
    """

    value: float
    error: float
    rises: Float[np.ndarray, " groups"]


@own_settings()
def worst_case(
    network: Network,
    params: PyTree,
    stats: PyTree,
    batch: PyTree,
    key: Array,
    *,
    rho: float,
    norm: str = "l2",
    adaptive: bool = False,
    ascent: str = "apgd",
    steps: int = 20,
    starts: int = 1,
    examples: int = 1024,
    group: int = 128,
    normalize_logits: bool = False,
    memory: Budget | None = None,
) -> WorstCase:
    """Mean over groups S of max L_S(theta + d) - L_S(theta) over ||d / c||_norm <= rho.

    c is 1, or |theta| where ``adaptive``. ``norm`` is "l2" or "linf", ``ascent`` "apgd", "pgd" or
    "one_step" of `ASCENTS`, from theta itself and ``starts - 1`` random points of the ball, the
    best by loss, theta included. Groups of ``group`` examples, ``examples`` in all, are drawn at
    random without replacement; fewer examples than a group are one group. BatchNorm is frozen.
    Defaults are those of Andriushchenko et al. 2023 (arXiv 2302.07011, section 4), whose definition
    it is; with ``normalize_logits`` the loss is that of (f - mean f) / ||f - mean f||, as in their
    code. Deviations from their code: the ball and the ascent are in the coordinates d / c, where
    theirs projects on the ellipsoid in d; momentum is Croce and Hein's; after a halving the
    perturbation is reset with the weights.

    Cost: (steps + 1) starts gradients over the examples. The adaptive form is unchanged by every
    rescaling of the parameters. Raises ValueError for rho that is not finite and above 0, unknown
    names, numbers below 1, normalized logits of another loss than cross-entropy, and a loss that is
    not finite.
    """
    if not 0 < rho < math.inf:
        raise ValueError(f"rho is {rho}; it must be a finite number above 0")
    counts = {"steps": steps, "starts": starts, "examples": examples, "group": group}
    for name, count in counts.items():
        at_least_one(name, count)
    check_pair(batch)
    check_alone(network, params, stats, batch[0])
    search = Search(
        *(known("ascent", ascent, ASCENTS), known("norm", norm, BALLS), adaptive),
        normalized=normalize_logits,
    )
    size = group_sizes(num_examples(batch), examples, group)
    static = (search, network, size, steps, starts, memory or budget())
    key = stream(key, "worst_case")
    whole = math.prod(size) == num_examples(batch)
    return from_rises(group_rises(*static, params, stats, batch, key, rho), whole)


def from_rises(rises: Any, whole: bool = False) -> WorstCase:
    """Mean and standard error of the rises of groups; ValueError if one is not finite.

    ``whole``: the groups are all examples, so that a single one has no error.
    """
    rises = np.asarray(rises, np.float64)
    bad = np.count_nonzero(~np.isfinite(rises))
    if bad:
        raise ValueError(f"the loss is not finite for {bad} of {len(rises)} groups of examples")
    if len(rises) > 1:
        error = rises.std(ddof=1) / np.sqrt(len(rises))
    else:
        error = 0.0 if whole else math.nan
    return WorstCase(float(rises.mean()), float(error), rises)


def group_sizes(available: int, examples: int, group: int) -> tuple[int, int]:
    """Number of groups, and examples in each: whole groups, or all that count in a smaller one."""
    size = min(group, examples, available)
    return min(examples, available) // size, size


class Search(NamedTuple):
    """How the worst case is looked for: names of `ASCENTS` and `BALLS`, c, and of which logits."""

    ascent: str
    norm: str
    adaptive: bool
    rho: str = ""
    normalized: bool = False

    def steps(self, options: Options) -> tuple[int, int]:
        """Steps of an ascent and its starts."""
        if self.ascent == "one_step":
            return 1, 1
        return options.ascent_steps, options.ascent_starts

    @property
    def options(self) -> tuple[str, ...]:
        """The `Options` that it reads."""
        own = () if self.ascent == "one_step" else ("ascent_steps", "ascent_starts")
        return (self.rho, *own, "worst_examples", "group_size", "measure_rtol")


@partial(jax.jit, static_argnums=range(6))
def group_rises(
    search: Search,
    network: Network,
    size: tuple[int, int],
    steps: int,
    starts: int,
    memory: Budget,
    params: PyTree,
    stats: PyTree,
    batch: PyTree,
    key: Array,
    rho: ScalarLike,
) -> Float[Array, " groups"]:
    """The largest rise found for each of ``size`` = (groups, examples in each)."""
    rise, groups = _in_groups(search, network, steps, starts, memory, params, stats, key, rho)
    num, group = size
    total = num_examples(batch)
    if num * group < total or num > 1:
        chosen = jax.random.permutation(groups, total)[: num * group]
        examples = rows(batch, chosen.reshape(num, group))
    else:
        examples = jax.tree.map(lambda x: jnp.asarray(x)[None], whole(batch))
    with own_settings():
        return jax.lax.map(lambda xs: rise(*xs), (jnp.arange(num), examples))


@partial(jax.jit, static_argnums=range(7))
def sampled_rises(
    search: Search,
    network: Network,
    group: int,
    steps: int,
    starts: int,
    rtol: float,
    memory: Budget,
    params: PyTree,
    stats: PyTree,
    batch: PyTree,
    key: Array,
    rho: ScalarLike,
) -> SampledMean:
    """The mean over groups, each drawn anew from all examples, to a relative error of ``rtol``."""
    rise, groups = _in_groups(search, network, steps, starts, memory, params, stats, key, rho)
    total = num_examples(batch)

    def drawn(index):
        chosen = subset(jax.random.fold_in(groups, index), total, group)
        return rise(index, rows(batch, chosen))

    with own_settings():
        return sampled_mean(drawn, rtol)


def _in_groups(search, network, steps, starts, memory, params, stats, key, rho):
    if search.normalized:
        network = with_normalized_logits(network)
    scale = jax.tree.map(jnp.abs if search.adaptive else jnp.ones_like, widen(params))

    def rise(index, examples):
        of_loss = value_and_grad_around(network, params, stats, examples, memory)
        peak = ascended(
            *(ASCENTS[search.ascent], of_loss, params, scale, search.norm, rho),
            *(jax.random.fold_in(key, index), steps, starts),
        )
        return peak.value - peak.start

    return rise, stream(key, "groups")


def _rises(search, network, at: Trained, batch, key, options: Options, memory):
    total, rho = num_examples(batch), jnp.asarray(getattr(options, search.rho))
    arguments = at.params, at.stats, batch, key, rho
    if sampled(total, options):
        how = options.group_size, *search.steps(options), options.measure_rtol
        return sampled_rises(search, network, *how, memory, *arguments)
    size = group_sizes(total, options.worst_examples, options.group_size)
    return group_rises(search, network, size, *search.steps(options), memory, *arguments)


def sampled(total: int, options: Options) -> bool:
    """Whether an error decides how many groups are taken: not of all examples in one."""
    return options.measure_rtol is not None and options.group_size < total


def _mean(search, network, at: Trained, batch, options: Options, found) -> Record:
    (steps, starts), total = search.steps(options), len(batch[0])
    cost = (steps + 1) * starts
    if sampled(total, options):
        value, error, groups, reached = checked_mean(found, "for a group of examples")
        looks = groups * options.group_size
        examples = min(total, looks)
        cost = -(-cost * looks // examples)
        return Record(value, error, reached, cost, examples, starts * groups, False)
    size = group_sizes(total, options.worst_examples, options.group_size)
    mean = from_rises(found, math.prod(size) == total)
    return Record(mean.value, mean.error, True, cost, math.prod(size), starts, False)


def _entry(description, reference, search, broken=()) -> Measure:
    broken = {*broken} if search.adaptive else {*broken, "layer_rescaling", "unit_rescaling"}
    return Measure(
        description,
        reference,
        "nats",
        "standard error over groups of examples",
        "gradients over the examples",
        search.options,
        EVERY - broken - (frozenset() if search.normalized else {"logit_scale"}),
        partial(_rises, search),
        partial(_mean, search),
    )


MODERN = "Andriushchenko et al. 2023, arXiv 2302.07011; Croce and Hein 2020, arXiv 2003.01690"
MADRY = "Madry et al. 2018, arXiv 1706.06083, the ascent"
MEASURES = {
    "sam_sharpness": _entry(
        "rise of the loss after one ascent step in the l2 ball (SAM)",
        "Foret et al. 2021, arXiv 2010.01412, equation 2",
        Search("one_step", "l2", False, "rho_l2"),
    ),
    "asam_sharpness": _entry(
        "the same with d/|theta| in the ball (ASAM, all parameters, eta 0)",
        "Kwon et al. 2021, arXiv 2102.11600, adaptive sharpness",
        Search("one_step", "l2", True, "rho_l2_adaptive"),
    ),
    "pgd_l2": _entry(
        "largest rise of the loss in the l2 ball, by projected gradients",
        MADRY,
        Search("pgd", "l2", False, "rho_l2"),
    ),
    "pgd_linf": _entry(
        "the same in the l-inf ball",
        MADRY,
        Search("pgd", "linf", False, "rho_linf"),
    ),
    **{
        f"apgd_{norm}_adaptive{tail}": _entry(
            f"largest rise of the loss with d/|theta| in the {norm} ball, by Auto-PGD{of}",
            MODERN,
            Search("apgd", norm, True, f"rho_{norm}_adaptive", normalized),
        )
        for norm in BALLS
        for tail, normalized, of in (("", False, ""), ("_normalized", True, ", logits of norm 1"))
    },
}
