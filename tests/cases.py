"""Tiny networks as pure functions, each with its loss, parameters and a batch of 11 examples."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

NUM_EXAMPLES = 11
NUM_CLASSES = 3


class Case(NamedTuple):
    """A network with its parameters and data; `loss` is `output_loss` of what `apply` returns.

    The plain losses are the same without custom derivatives.
    """

    name: str
    apply: Callable  # (params, batch) -> outputs
    output_loss: Callable  # (outputs, batch) -> mean loss
    plain_output_loss: Callable
    params: Any
    batch: Any

    def loss(self, params, batch):
        return self.output_loss(self.apply(params, batch), batch)

    def plain_loss(self, params, batch):
        return self.plain_output_loss(self.apply(params, batch), batch)


def cross_entropy(logits, batch):
    labels = batch["y"]
    return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels])


def squared_error(outputs, batch):
    targets = jax.nn.one_hot(batch["y"], NUM_CLASSES)
    return jnp.mean(jnp.sum(jnp.square(outputs - targets), axis=-1))


def mlp(activation):
    def apply(params, x):
        for layer in params[:-1]:
            x = activation(dense(layer, x))
        return dense(params[-1], x)

    return apply


def dense(layer, x):
    return x @ layer["w"] + layer["b"][None, :]


def tied(params, x):
    """A linear autoencoder's shape: the same weights on the way in and on the way out."""
    hidden = jnp.tanh(x @ params["w"])
    return (hidden @ params["w"].T)[:, :NUM_CLASSES] + params["b"][None, :]


def cnn(params, x, batch_norm=lambda x: x):
    x = jax.lax.conv_general_dilated(
        x, params["filters"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = jax.nn.relu(x + params["bias"][None, None, None, :])
    x = batch_norm(x)
    x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return dense(params["head"], x.reshape(len(x), -1))


def batch_norm_cnn(params, x):
    """BatchNorm at running statistics, which are constants here, between ReLU and pooling."""
    mean, variance = jnp.array([0.3, -0.2]), jnp.array([0.8, 1.7])

    def frozen(x):
        scale = params["scale"] / jnp.sqrt(variance + 1e-5)
        return (x - mean[None, None, None, :]) * scale[None, None, None, :] + params["shift"][
            None, None, None, :
        ]

    return cnn(params, x, frozen)


@jax.custom_vjp
def guarded_exp(x):
    """exp with a hand-written derivative that, as is common, is written in terms of itself."""
    return jnp.exp(x)


def _guarded_exp_forward(x):
    # Calls the custom function: this is what has no forward-mode derivative.
    y = guarded_exp(x)
    return y, y


guarded_exp.defvjp(_guarded_exp_forward, lambda y, cotangent: (cotangent * y,))


def poisson(log_rates, batch, exp=jnp.exp):
    counts = jax.nn.one_hot(batch["y"], NUM_CLASSES)
    return jnp.mean(jnp.sum(exp(log_rates) - counts * log_rates, axis=-1))


def guarded_poisson(log_rates, batch):
    return poisson(log_rates, batch, guarded_exp)


def normal(rng, *shape):
    return jnp.asarray(rng.standard_normal(shape) * 0.7)


def init_dense(rng, fan_in, fan_out):
    return {"w": normal(rng, fan_in, fan_out), "b": normal(rng, fan_out)}


def init_mlp(rng):
    sizes = (4, 5, 4, NUM_CLASSES)
    return [init_dense(rng, *fans) for fans in pairwise(sizes)]


def init_tied(rng):
    return {"w": normal(rng, 4, 5), "b": normal(rng, NUM_CLASSES)}


def init_cnn(rng):
    head = init_dense(rng, 8, NUM_CLASSES)
    return {"filters": normal(rng, 3, 3, 1, 2), "bias": normal(rng, 2), "head": head}


def init_batch_norm_cnn(rng):
    return init_cnn(rng) | {"scale": 1 + normal(rng, 2), "shift": normal(rng, 2)}


def equinox_model(rng):
    return eqx.nn.MLP(4, NUM_CLASSES, 5, 2, key=jax.random.key(rng.integers(100)))


def init_equinox(rng):
    """The arrays of an Equinox module; its functions are left as None."""
    return eqx.filter(equinox_model(rng), eqx.is_inexact_array)


def equinox(params, x):
    static = eqx.filter(equinox_model(np.random.default_rng(7)), eqx.is_inexact_array, inverse=True)
    return jax.vmap(eqx.combine(params, static))(x)


def make_case(name: str) -> Case:
    """Return a case in the default float type, so float64 where x64 is enabled."""
    apply, init, output_loss, plain_output_loss, shape = _RECIPES[name]
    rng = np.random.default_rng(7)
    batch = {
        "x": normal(rng, NUM_EXAMPLES, *shape),
        "y": jnp.asarray(rng.integers(0, NUM_CLASSES, NUM_EXAMPLES)),
    }

    def apply_to_batch(params, batch):
        return apply(params, batch["x"])

    return Case(name, apply_to_batch, output_loss, plain_output_loss, init(rng), batch)


_RECIPES = {
    "relu_mlp": (mlp(jax.nn.relu), init_mlp, cross_entropy, cross_entropy, (4,)),
    "tanh_mlp": (mlp(jnp.tanh), init_mlp, squared_error, squared_error, (4,)),
    "cnn": (cnn, init_cnn, cross_entropy, cross_entropy, (4, 4, 1)),
    "batch_norm_cnn": (
        *(batch_norm_cnn, init_batch_norm_cnn, cross_entropy, cross_entropy, (4, 4, 1)),
    ),
    "tied": (tied, init_tied, cross_entropy, cross_entropy, (4,)),
    "custom_vjp": (mlp(jnp.tanh), init_mlp, guarded_poisson, poisson, (4,)),
    "equinox": (equinox, init_equinox, cross_entropy, cross_entropy, (4,)),
}
CASES = tuple(_RECIPES)
