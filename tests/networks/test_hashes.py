"""Programs are known by the functions of a network: those without a hash are refused."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsharp import data, measures, studies
from jaxsharp.networks import Network

X = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
BATCH = X, np.arange(20) % 2
PARAMS = {"w": jnp.ones((3, 2))}


def make(key):
    return {"w": jax.random.normal(key, (3, 2))}, {}


@dataclass
class Linear:
    """As users write one; a dataclass that may change has no hash."""

    factor: float = 1.0

    def __call__(self, params, stats, inputs, train):
        return self.factor * inputs @ params["w"], stats


@dataclass
class Scaled:
    factor: float = 1.0

    def __call__(self, outputs, targets):
        of_examples = optax.softmax_cross_entropy_with_integer_labels(outputs, targets)
        return self.factor * of_examples


class Hashed(Linear):
    __hash__ = object.__hash__


ARGUMENTS = {
    "apply of the network": ({"apply": Linear()}, None),
    "loss": ({"apply": Hashed()}, Scaled()),
}


@pytest.mark.parametrize("named", ARGUMENTS)
def test_what_has_no_hash_is_refused_in_one_line(named, tmp_path):
    functions, loss = ARGUMENTS[named]
    network, out = Network(make, **functions), tmp_path / "out"
    both = data.from_arrays(BATCH, BATCH)
    for take in (
        lambda: measures.measure(network, PARAMS, {}, BATCH, key=jax.random.key(0), loss=loss),
        lambda: studies.run(network, both, optimizers=["sgd"], loss=loss, out=out),
    ):
        with pytest.raises(ValueError, match=f"^{named} cannot be hashed") as refused:
            take()
        assert "\n" not in str(refused.value) and not out.exists()


def test_an_object_with_a_hash_is_a_function():
    network = Network(make, Hashed())
    found = measures.measure(network, PARAMS, {}, BATCH, ["gradient_norm"], key=jax.random.key(0))
    assert found["gradient_norm"].finished
