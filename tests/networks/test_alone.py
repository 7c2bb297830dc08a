"""Evaluation of an example that depends on the others is refused, as chunks would change it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxsharp import data, measures, networks
from jaxsharp.networks.checks import check_alone
from jaxsharp.studies.workbench import workbench

X = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
Y = np.arange(20) % 3
KEY = jax.random.key(0)


def init(key):
    return {"w": jax.random.normal(key, (4, 3))}, {}


def of(change):
    """A linear network of inputs that are changed, whatever the mode."""
    return networks.Network(init, lambda params, stats, x, train: (change(x) @ params["w"], stats))


class Training(nnx.Module):
    """A BatchNorm that is in training mode always."""

    def __init__(self, rngs):
        self.norm, self.last = nnx.BatchNorm(4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.last(self.norm(x, use_running_average=False))


MIXED = {
    "training mode": networks.from_nnx(lambda rngs: Training(rngs)),
    "less the mean": of(lambda x: x - x.mean(0)),
    "in place of the first": of(lambda x: x[::-1]),
}
ALONE = {
    "itself": of(lambda x: x),
    "not finite": of(lambda x: x / 0),
    "16 bits": of(lambda x: x.astype(jnp.bfloat16)),
}


@pytest.mark.parametrize("network", MIXED.values(), ids=MIXED)
def test_what_depends_on_other_examples_is_refused(network):
    at = network.init(KEY)
    with pytest.raises(ValueError, match="of an example depends on the others") as e:
        measures.measure(network, *at, (X, Y), ["parameter_norm"], key=KEY)
    assert "\n" not in str(e.value)
    mine = data.from_arrays(train=(X, Y), test=(X, Y))
    with pytest.raises(ValueError, match="of an example depends on the others"):
        workbench(mine, network, None)


DIRECT = {
    "random_perturbation": lambda *model: measures.random_perturbation(*model, KEY),
    "worst_case": lambda *model: measures.worst_case(*model, KEY, rho=0.1),
    "top_eigenvalue": lambda *model: measures.top_eigenvalue(*model, key=KEY),
    "minimum_sharpness": measures.minimum_sharpness,
    "sampled": lambda *model: measures.sampled_minimum_sharpness(*model, KEY),
    "relative_flatness": measures.relative_flatness,
    "layer_traces": measures.layer_traces,
    "loss_along": lambda *model: measures.loss_along(*model, model[1], [0.0, 1.0]),
    "loss_plane": lambda *model: measures.loss_plane(*model, (model[1], model[1]), [0.0], [1.0]),
}


@pytest.mark.parametrize("function", DIRECT.values(), ids=DIRECT)
def test_so_do_the_functions_themselves(function):
    network = MIXED["less the mean"]
    with pytest.raises(ValueError, match="of an example depends on the others"):
        function(network, *network.init(KEY), (X, Y))


@pytest.mark.parametrize("network", ALONE.values(), ids=ALONE)
def test_what_is_of_each_example_alone_is_taken(network):
    check_alone(network, *network.init(KEY), X)
    check_alone(MIXED["less the mean"], *network.init(KEY), X[:1])


def test_a_loss_over_whole_batches_may_mix_them():
    loss = networks.whole_batch(lambda f, y: jnp.square(f).mean(), 4)
    network = MIXED["less the mean"]._replace(loss=loss)
    check_alone(network, *network.init(KEY), X)
