"""Tiny networks as pure functions, each with its loss, parameters and a batch of 11 examples."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

NUM_EXAMPLES = 11
NUM_CLASSES = 3


class Case(NamedTuple):
    """A network and its mean loss; `plain_loss` is the same loss without custom derivatives."""

    name: str
    apply: Callable
    loss: Callable
    plain_loss: Callable
    params: Any
    batch: Any


def cross_entropy(apply):
    def loss(params, batch):
        logits, labels = apply(params, batch["x"]), batch["y"]
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels])

    return loss


def squared_error(apply):
    def loss(params, batch):
        targets = jax.nn.one_hot(batch["y"], NUM_CLASSES)
        return jnp.mean(jnp.sum(jnp.square(apply(params, batch["x"]) - targets), axis=-1))

    return loss


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


def cnn(params, x):
    x = jax.lax.conv_general_dilated(
        x, params["filters"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = jax.nn.relu(x + params["bias"][None, None, None, :])
    x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return dense(params["head"], x.reshape(len(x), -1))


@jax.custom_vjp
def guarded_exp(x):
    """exp with a hand-written derivative that, as is common, is written in terms of itself."""
    return jnp.exp(x)


def _guarded_exp_forward(x):
    # Calls the custom function: this is what has no forward-mode derivative.
    y = guarded_exp(x)
    return y, y


guarded_exp.defvjp(_guarded_exp_forward, lambda y, cotangent: (cotangent * y,))


def poisson(exp):
    def build(apply):
        def loss(params, batch):
            rates = apply(params, batch["x"])
            counts = jax.nn.one_hot(batch["y"], NUM_CLASSES)
            return jnp.mean(jnp.sum(exp(rates) - counts * rates, axis=-1))

        return loss

    return build


def normal(key, *shape):
    return jax.random.normal(key, shape) * 0.7


def init_dense(key, fan_in, fan_out):
    weights, bias = jax.random.split(key)
    return {"w": normal(weights, fan_in, fan_out), "b": normal(bias, fan_out)}


def init_mlp(key):
    sizes = (4, 5, 4, NUM_CLASSES)
    keys = jax.random.split(key, len(sizes) - 1)
    return [init_dense(*args) for args in zip(keys, sizes[:-1], sizes[1:], strict=True)]


def init_tied(key):
    weights, bias = jax.random.split(key)
    return {"w": normal(weights, 4, 5), "b": normal(bias, NUM_CLASSES)}


def init_cnn(key):
    filters, bias, head = jax.random.split(key, 3)
    return {
        "filters": normal(filters, 3, 3, 1, 2),
        "bias": normal(bias, 2),
        "head": init_dense(head, 8, NUM_CLASSES),
    }


def make_case(name: str) -> Case:
    """Return a case in the default float type, so float64 where x64 is enabled."""
    apply, init, make_loss, make_plain_loss, shape = _RECIPES[name]
    inputs, labels, weights = jax.random.split(jax.random.key(7), 3)
    batch = {
        "x": jax.random.normal(inputs, (NUM_EXAMPLES, *shape)),
        "y": jax.random.randint(labels, (NUM_EXAMPLES,), 0, NUM_CLASSES),
    }
    return Case(name, apply, make_loss(apply), make_plain_loss(apply), init(weights), batch)


_RECIPES = {
    "relu_mlp": (mlp(jax.nn.relu), init_mlp, cross_entropy, cross_entropy, (4,)),
    "tanh_mlp": (mlp(jnp.tanh), init_mlp, squared_error, squared_error, (4,)),
    "cnn": (cnn, init_cnn, cross_entropy, cross_entropy, (4, 4, 1)),
    "tied": (tied, init_tied, cross_entropy, cross_entropy, (4,)),
    "custom_vjp": (mlp(jnp.tanh), init_mlp, poisson(guarded_exp), poisson(jnp.exp), (4,)),
}
CASES = tuple(_RECIPES)
