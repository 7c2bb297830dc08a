"""Where entries of parameters meet units: the tail and the head of each, tied over its places."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from jaxsharp.core.programs import readable
from jaxsharp.curvature.structure.reading import StructureError
from jaxsharp.curvature.structure.ties import ANY, FIXED, Labels, Ties


class Value(NamedTuple):
    """The label of each number of an array; its slot, if it is made of parameters alone.

    ``params`` and ``data``: whether it depends on these.
    """

    labels: Labels
    slots: bool = False
    params: bool = False
    data: bool = False


class Meeting(NamedTuple):
    """Slots that meet others in one operation, each once, with their tails and heads."""

    slots: Int[np.ndarray, " n"]
    tails: Int[np.ndarray, " n"]
    heads: Int[np.ndarray, " n"]


class Meetings:
    """Labels of units, slots of the entries of parameters, and where these meet those."""

    def __init__(self, names: list[str], shapes: list[tuple[int, ...]]):
        self.names = names
        self.labels, self.slots = Ties(1), Ties(0)
        self.entries = [self.slots.new(*shape) for shape in shapes]
        self.met = [Meeting(*[np.zeros(0, int)] * 3)]

    def meet(self, slots: Labels, tails: Labels, heads: Labels) -> None:
        """Note tails and heads of slots, equal wherever one slot is met."""
        slots, tails, heads = (a.ravel() for a in np.broadcast_arrays(slots, tails, heads))
        kept = slots >= 0
        met, groups = np.unique(slots[kept], return_inverse=True)
        tails = self.labels.tie_groups(tails[kept], groups, len(met))
        heads = self.labels.tie_groups(heads[kept], groups, len(met))
        self.met.append(Meeting(met, np.where(tails < 0, FIXED, tails), heads))

    def alike(self, values: list[Value], data: bool) -> tuple[list[Value], Ties]:
        """Values all in slots, where there is nothing else but zeros, or else all in labels.

        ``data``: what comes of them depends on the example.
        """
        of_parameters = all(v.slots or np.all(v.labels < 0) for v in values)
        if of_parameters and any(v.slots for v in values) and not data:
            return [v._replace(slots=True) for v in values], self.slots
        return [self.active(v) for v in values], self.labels

    def active(self, value: Value) -> Value:
        """Parameters as activations: each slot is a unit, of tail 0."""
        if not value.slots:
            return value
        known, places = np.unique(value.labels, return_inverse=True)
        new = self.labels.new(len(known))[places].reshape(value.labels.shape)
        self.meet(value.labels, np.full(value.labels.shape, FIXED), new)
        return value._replace(labels=np.where(value.labels < 0, ANY, new), slots=False)

    def fix(self, value: Value) -> None:
        """Keep the scale of a value."""
        self.labels.tie(self.active(value).labels, FIXED)

    def varies(self, value: Value) -> bool:
        """Whether a factor has units; one that is of no parameter keeps its scale."""
        if not value.params:
            self.fix(value)
            return False
        return bool(np.any(self.labels.classes()[value.labels[value.labels >= 0]]))

    def units(self) -> tuple[int, Labels, Labels, Labels]:
        """Number of units, tails and heads of the slots, and the unit of each label."""
        of_slot = self.slots.classes()
        slots, tails, heads = (np.concatenate(parts) for parts in zip(*self.met, strict=True))
        which = np.repeat(range(len(self.met)), [len(each.slots) for each in self.met])
        groups = of_slot[slots]
        self.check_shared(groups, which, slots, tails)
        tail = self.labels.tie_groups(tails, groups, len(of_slot))
        head = self.labels.tie_groups(heads, groups, len(of_slot))
        classes = self.labels.classes()
        used = np.unique(np.concatenate([[FIXED], classes[tails], classes[heads]]))
        numbers = np.zeros(len(classes), int)
        numbers[used] = range(len(used))
        numbers = numbers[classes]
        tail, head = (numbers[np.maximum(each, FIXED)][of_slot] for each in (tail, head))
        return len(used) - 1, tail, head, numbers

    def check_shared(self, groups: Labels, which: Labels, slots: Labels, tails: Labels) -> None:
        """Refuse parameters in several operations, except where none of these has units before."""
        first = np.full(len(slots) and groups.max() + 1, -1)
        first[groups[::-1]] = which[::-1]
        shared = np.isin(groups, groups[which != first[groups]])
        bad = np.flatnonzero(shared & (self.labels.classes()[tails] != FIXED))
        if len(bad):
            ends = np.cumsum([entries.size for entries in self.entries])
            name = self.names[int(np.searchsorted(ends, slots[bad[0]], "right"))]
            raise StructureError(
                f"parameter {name} enters several operations: the rescalings of single hidden "
                "units are not read from these"
            )


def constant(value: Any) -> Value:
    """A literal or constant array, which keeps its scale; zeros and infinities have any."""
    if isinstance(value, jax.core.Tracer):
        return Value(np.full(value.shape, FIXED))
    array = np.asarray(readable(value))
    if array.dtype == bool:
        return Value(np.full(array.shape, FIXED))
    return Value(np.where(np.isfinite(array) & (array != 0), FIXED, ANY))
