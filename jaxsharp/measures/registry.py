"""Sharpness measures by name, from one file a family, which studies and commands choose from."""

import math
from collections.abc import Callable
from functools import lru_cache

import jax.numpy as jnp

from jaxsharp.core.streaming import streams
from jaxsharp.measures import baselines, minimum, neighbourhood, relatives
from jaxsharp.measures.batches import over_batches
from jaxsharp.measures.contract import OF_DATA, SYMMETRIES, Measure, Options, Record
from jaxsharp.measures.spectrum import densities, eigenvalues, traces
from jaxsharp.networks.losses import name_of

FAMILIES = (minimum, eigenvalues, traces, densities, neighbourhood, relatives, baselines)
MEASURES: dict[str, Measure] = {
    name: over_batches(measure) for family in FAMILIES for name, measure in family.MEASURES.items()
}
DEFAULT_MEASURES = ("minimum_sharpness", "top_eigenvalue", "random_perturbation")


def settings_of(name: str, options: Options) -> str | None:
    """The options that decide the value of a measure; None of the user's own, which has no name.

    Of such a one there is one measurement at most, with the digest of its code.
    """
    return MEASURES[name].settings(options) if name in MEASURES else None


def place_of(name: str) -> int:
    """Where a measure stands in tables: in the order of the registry, the user's own at the end."""
    return list(MEASURES).index(name) if name in MEASURES else len(MEASURES)


def guide_table() -> str:
    """The table of all measures in the guide at the door, as Markdown."""
    head = ("name", "what it is", "reference", "unit", "error", "cost in", "changed by")
    rows = [head, ("---",) * len(head)]
    for name, of in MEASURES.items():
        changed = [symmetry for symmetry in SYMMETRIES if symmetry not in of.invariances]
        texts = of.description, of.reference, of.unit, of.error, of.cost
        rows.append((name, *texts, ", ".join(changed) or "nothing"))
    escaped = ([text.replace("|", r"\|") for text in row] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in escaped)


@lru_cache(maxsize=32)  # so that one function is one static argument of compiled programs
def own_measure(fn: Callable) -> Measure:
    """The user's own measure: ``fn(network, params, stats, batch, key)``, a function of arrays.

    It returns a number, or a number and its error, and is compiled and mapped over runs, so that it
    may use JAX alone. Of a loss over whole batches it sees these as examples (`over_batches`).
    """

    def arrays(network, at, batch, key, options, memory):
        try:
            found = fn(network, at.params, at.stats, batch, key)
        except (AttributeError, TypeError, ValueError) as error:
            if not streams(batch):
                raise
            raise ValueError(
                "the inputs do not fit the device and are streamed, which its function does not "
                "take; it must go by core.mean_over_chunks(fn, batch, chunk_size), or be of fewer "
                f"examples ({str(error).splitlines()[0]})"
            ) from error
        value, error = found if isinstance(found, tuple) else (found, jnp.nan)
        if jnp.shape(value) or jnp.shape(error):
            raise ValueError(
                f"{name_of(fn)} returns shapes {jnp.shape(value)} and {jnp.shape(error)}; it must "
                "return a number, or a number and its error"
            )
        return jnp.asarray(value), jnp.asarray(error)

    def record(network, at, batch, options, found):
        value, error = map(float, found)
        if not math.isfinite(value):
            raise ValueError(f"its value is {value}")
        return Record(value, error, True, 1, len(batch[0]), 0, False)

    text = (fn.__doc__ or "the user's own").strip().splitlines()[0]
    kinds = "of the measure's own kind", "calls"
    own = Measure(text, "the user's own", "its own", *kinds, (), OF_DATA, arrays, record)
    return over_batches(own)
