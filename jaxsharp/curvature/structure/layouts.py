"""Which labels meet in a product of matrices or a convolution, by the axes of its operands."""

import numpy as np
from jax.extend import core

from jaxsharp.curvature.structure.ties import Labels, Ties

# Slots, and the tails and heads that they have where they meet: of shapes that broadcast.
Met = tuple[Labels, Labels, Labels]


def parameter_in_product(
    eqn: core.JaxprEqn, position: int, ties: Ties, slots: Labels, other: Labels
) -> tuple[Labels, Met]:
    """Labels of a matrix product with parameters at ``position``, and what meets in it.

    Every combination of the parameters' axes that are not summed over is a new unit, whatever the
    place among the other operand's; its tails are the labels that are summed over.
    """
    (batch, summed, free), (other_batch, other_summed, other_free) = (
        _axes(eqn, at) for at in (position, 1 - position)
    )
    moved = slots.transpose(*batch, *summed, *free)
    shape, num_batch, num_summed = moved.shape, len(batch), len(summed)
    met = other.transpose(*other_batch, *other_summed, *other_free)
    tails = ties.tie_along(met, tuple(range(num_batch + num_summed, met.ndim)))
    tails = tails.reshape(*shape[: num_batch + num_summed], *[1] * len(free))
    heads = ties.new(*shape[:num_batch], *shape[num_batch + num_summed :])
    wide = heads.reshape(*shape[:num_batch], *[1] * num_summed, *shape[num_batch + num_summed :])
    return _spread(eqn, position, heads), (moved, tails, wide)


def mixed_in_product(eqn: core.JaxprEqn, position: int, ties: Ties, labels: Labels) -> Labels:
    """Labels of a matrix product with constants, of the operand at ``position``: its sums tie."""
    batch, summed, free = _axes(eqn, position)
    moved = labels.transpose(*batch, *free, *summed)
    num = len(batch) + len(free)
    least = ties.tie_along(moved, tuple(range(num, moved.ndim)))
    return _spread(eqn, position, least.reshape(moved.shape[:num]))


def parameter_in_convolution(
    eqn: core.JaxprEqn, ties: Ties, slots: Labels, image: Labels
) -> tuple[Labels, Met]:
    """Labels of a convolution with parameters as its kernel: every channel is a unit."""
    numbers, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
    _, feature, *_ = numbers.lhs_spec
    axes = tuple(axis for axis in range(image.ndim) if axis != feature)
    channels = ties.tie_along(image, axes).ravel()
    moved = slots.transpose(numbers.rhs_spec)
    outputs, inputs = moved.shape[:2]
    heads = ties.new(outputs)
    group = np.arange(outputs)[:, None] // (outputs // groups)
    tails = channels[group * inputs + np.arange(inputs)]
    window = [1] * (moved.ndim - 2)
    out = eqn.outvars[0].aval.shape
    wide = [1] * len(out)
    wide[numbers.out_spec[1]] = outputs
    met = moved, tails.reshape(outputs, inputs, *window), heads.reshape(outputs, 1, *window)
    return np.broadcast_to(heads.reshape(wide), out), met


def _axes(eqn, position):
    """Axes of an operand: of batches, summed over, and free."""
    summed, batch = (pair[position] for pair in eqn.params["dimension_numbers"])
    ndim = eqn.invars[position].aval.ndim
    free = [axis for axis in range(ndim) if axis not in (*summed, *batch)]
    return tuple(batch), tuple(summed), tuple(free)


def _spread(eqn, position, labels):
    """Labels of batches and free axes of one operand, as those of the whole product."""
    num_batch = len(eqn.params["dimension_numbers"][1][0])
    _, _, others = _axes(eqn, 1 - position)
    axes = range(num_batch, num_batch + len(others)) if position else range(-len(others), 0)
    wide = np.expand_dims(labels, tuple(axes)) if others else labels
    return np.broadcast_to(wide, eqn.outvars[0].aval.shape)
