"""Labels that a program makes equal: what is tied together is one class."""

import numpy as np
import scipy
from jaxtyping import Int

Labels = Int[np.ndarray, "..."]

FIXED, ANY = 0, -1  # the scale that is kept; that of zeros, which have any


class Ties:
    """Labels 0, 1, 2, ..., and which of them are equal."""

    def __init__(self, count: int):
        self.count = count
        self.pairs: list[Int[np.ndarray, "2 pairs"]] = []

    def new(self, *shape: int) -> Labels:
        """An array of labels of their own."""
        size = int(np.prod(shape, dtype=int))
        self.count += size
        return np.arange(self.count - size, self.count).reshape(shape)

    def tie(self, a: Labels, b: Labels | int) -> Labels:
        """Make labels equal, entry by entry, and return one of each two; `ANY` is equal to all."""
        a, b = np.broadcast_arrays(a, b)
        differ = (a != b) & (a >= 0) & (b >= 0)
        if differ.any():
            known = np.unique(a[differ] * self.count + b[differ])
            self.pairs.append(np.stack(np.divmod(known, self.count)))
        return np.where(np.minimum(a, b) < 0, np.maximum(a, b), np.minimum(a, b))

    def tie_along(self, labels: Labels, axes: tuple[int, ...]) -> Labels:
        """Make labels equal along axes, and return one for all, with these axes of length 1."""
        largest = np.iinfo(labels.dtype).max
        least = np.where(labels < 0, largest, labels)
        least = least.min(axes, keepdims=True, initial=largest)
        least = np.where(least == largest, ANY, least)
        self.tie(labels, least)
        return least

    def tie_groups(self, labels: Labels, groups: Labels, count: int) -> Labels:
        """Make labels of one group equal, and return one for each, `ANY` where there is none."""
        largest = np.iinfo(labels.dtype).max
        least = np.full(count, largest)
        np.minimum.at(least, groups, np.where(labels < 0, largest, labels))
        least[least == largest] = ANY
        self.tie(labels, least[groups])
        return least

    def classes(self) -> Int[np.ndarray, " labels"]:
        """The class of each label, by number; that of label 0 is 0."""
        a, b = np.hstack([np.zeros((2, 0), int), *self.pairs])
        graph = scipy.sparse.coo_array((np.ones(len(a)), (a, b)), shape=(self.count,) * 2)
        return scipy.sparse.csgraph.connected_components(graph, directed=False)[1]
