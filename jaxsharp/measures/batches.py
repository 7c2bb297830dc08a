"""Measures of a loss over whole batches: of its mean over fixed batches (`networks.in_batches`)."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import jax

from jaxsharp.core.chunks import num_examples
from jaxsharp.measures.contract import Measure, Options, Record
from jaxsharp.networks.batches import in_batches, of_batches
from jaxsharp.networks.losses import Loss


def over_batches(measure: Measure) -> Measure:
    """The same measure, which of a network with a loss over whole batches sees batches as examples.

    Its record counts the examples in them. What is of single examples is refused, and so are groups
    of examples that are no whole batches.
    """
    arrays = of_arrays(measure.arrays, measure.per_example, "group_size" in measure.options)
    return measure._replace(arrays=arrays, record=of_record(measure.record, measure.per_example))


@lru_cache(maxsize=128)  # so that measures which share what is computed go on to do so
def of_arrays(arrays: Callable, per_example: bool, in_groups: bool) -> Callable:
    """`Measure.arrays` of the fixed batches."""

    def taken(network, at, batch, key, options, memory):
        loss = network.loss
        if loss.batch_size is None:
            return arrays(network, at, batch, key, options, memory)
        if per_example:
            raise of_single_examples(loss)
        if in_groups:
            check_groups(loss, num_examples(batch), options)
        batched, batches = in_batches(network, batch)
        return arrays(batched, at, batches, key, in_units(loss, options), memory)

    return taken


@lru_cache(maxsize=128)
def of_record(record: Callable, per_example: bool) -> Callable:
    """`Measure.record` of the fixed batches."""

    def made(network, at, batch, options, found) -> Record:
        loss = network.loss
        if loss.batch_size is None:
            return record(network, at, batch, options, found)
        if per_example:  # what a measure of the same stream computed is there
            raise of_single_examples(loss)
        batches = jax.eval_shape(lambda batch: in_batches(network, batch)[1], batch)
        arguments = at, batches, in_units(loss, options), found
        found = record(of_batches(network), *arguments)
        return found._replace(examples=found.examples * loss.batch_size)

    return made


def of_single_examples(loss: Loss) -> ValueError:
    """The refusal of what a loss over whole batches has no values for."""
    return ValueError(
        f"it is of single examples, and the loss {loss.name} is over whole batches of "
        f"{loss.batch_size}"
    )


def in_units(loss: Loss, options: Options) -> Options:
    """The options whose numbers of examples are numbers of batches."""
    counts = options.worst_examples, options.group_size
    worst, group = (max(1, count // loss.batch_size) for count in counts)
    return replace(options, worst_examples=worst, group_size=group)


def check_groups(loss: Loss, available: int, options: Options) -> None:
    """Raise ValueError for groups of examples, less than all, that are no whole batches."""
    group, size = options.group_size, loss.batch_size
    if group % size and group < loss.used(available):
        raise ValueError(
            f"group_size is {group}; of the loss {loss.name} it must be a multiple of its batches "
            f"of {size} examples"
        )
