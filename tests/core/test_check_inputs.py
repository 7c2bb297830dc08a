"""What users pass in that is nearly right: taken, or refused in one line that names it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict

from jaxsharp.core.chunks import Batches, check_data, check_pair
from jaxsharp.core.programs import constants
from jaxsharp.core.trees import check_numbers, mask_of, select

PARAMS = {"a": {"w": np.ones(2), "b": np.ones(3)}, "c": np.ones(4)}


@jax.tree_util.register_pytree_node_class
class Callable:
    """A pytree whose class can be called, like a module."""

    def __init__(self, w):
        self.w = w

    def tree_flatten(self):
        return (self.w,), None

    @classmethod
    def tree_unflatten(cls, _, leaves):
        return cls(*leaves)

    def __call__(self, x):
        raise AssertionError("a mask was called")


@pytest.mark.parametrize(
    "mask", [{"a": True, "c": False}, {"a": {"w": True, "b": True}, "c": False}]
)
def test_masks_fit_by_names_whatever_the_containers(mask):
    kept = select(PARAMS, mask)
    for params, given in ((FrozenDict(PARAMS), mask), (PARAMS, FrozenDict(mask))):
        found = select(params, given)
        assert len(jax.tree.leaves(found)) == len(jax.tree.leaves(kept)) == 2
    with pytest.raises(ValueError, match="structure"):
        select(FrozenDict(PARAMS), {"a": True, "other": False})
    with pytest.raises(ValueError, match="structure"):
        select(FrozenDict(PARAMS), {"a": True})


def test_masks_of_classes_that_can_be_called_are_masks():
    assert mask_of(Callable(np.ones(2)), Callable(True)).w is True
    assert mask_of(PARAMS, lambda params: sorted(params)) == ["a", "c"]


@pytest.mark.parametrize(
    "batch", [iter([np.ones(2)]), (np.ones(2), np.array(["a", "b"])), [object()], ["text"]]
)
def test_data_that_are_no_arrays_are_named(batch):
    with pytest.raises(ValueError, match=r"batch.* no array of numbers; give NumPy or JAX arrays"):
        check_data(batch)


def test_measures_take_pairs_and_parameters_are_arrays():
    for batch in (Batches(lambda: []), (np.ones(2),), np.ones(2), iter([])):
        with pytest.raises(ValueError, match="a measure takes all data at once"):
            check_pair(batch)
    with pytest.raises(ValueError, match=r"params\['name'\] is str, no array"):
        check_numbers({"name": "net"}, "params", "")


def test_typed_keys_in_programs_are_read_as_integers():
    key = jax.random.key(7)
    program = jax.make_jaxpr(lambda x: x * jax.random.bernoulli(key, 0.5, (2,)))(jnp.ones(2))
    data = np.asarray(jax.random.key_data(key))
    assert any(np.array_equal(np.asarray(c), data) for c in constants(program))
