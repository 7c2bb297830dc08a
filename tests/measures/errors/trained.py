"""Tiny networks that were trained, whose measures are taken with many keys by one program."""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.optimize import brentq

from jaxsharp.core import budget
from jaxsharp.measures import MEASURES, Options, Record, Trained
from jaxsharp.measures.neighbourhood import directions
from jaxsharp.networks import Network
from tests.references import dense_hessian

CLASSES = 6
KEYS = 400  # of which a spread of normal numbers is known to 4 %, and a share of 95 % to 1 %
DRAWS = 12_000  # pairs of the plain average, of which measures take 10 to 50


class Task(NamedTuple):
    """A network, its arrays, and its data."""

    network: Network
    at: Trained
    batch: tuple


def apply(params, stats, x, train):
    return jax.nn.relu(x @ params["first"] + params["bias"]) @ params["last"], stats


@cache
def learned(num: int) -> Task:
    """A network that Adam fitted to examples of six classes, some of which are where others are.

    Of its eigenvalues about six are large.
    """
    rng = np.random.default_rng(0)
    x = rng.normal(size=(num, 6))
    y = (x @ rng.normal(size=(6, CLASSES)) + rng.normal(size=(num, CLASSES))).argmax(1)
    shapes = {"first": (6, 6), "bias": (6,), "last": (6, CLASSES)}
    initial = {name: jnp.asarray(rng.normal(size=shape) / 2) for name, shape in shapes.items()}
    network, batch = Network(lambda key: (initial, {}), apply), (jnp.asarray(x), jnp.asarray(y))
    loss, adam = network.frozen_loss({}), optax.adam(2e-2)

    @jax.jit
    def trained(params):
        def step(state, _):
            params, moments = state
            updates, moments = adam.update(jax.grad(loss)(params, batch), moments)
            return (optax.apply_updates(params, updates), moments), None

        return jax.lax.scan(step, (params, adam.init(params)), None, length=150)[0][0]

    return Task(network, Trained(trained(initial), {}, initial), batch)


@cache
def _arrays(fn, task_of, options: Options):
    network, at, batch = learned(*task_of)

    @jax.jit
    def program(at, keys):
        one = lambda key: fn(network, at, batch, key, options, budget())  # noqa: E731
        return jax.lax.map(one, keys, batch_size=KEYS)

    return jax.device_get(program(at, jax.random.split(jax.random.key(1), KEYS)))


def records(name: str, task_of: tuple, options: Options) -> list[Record]:
    """Records of a measure with many keys, from arrays that are computed once for a family."""
    found = _arrays(MEASURES[name].arrays, task_of, options)
    each = (jax.tree.map(lambda leaf, i=i: leaf[i], found) for i in range(KEYS))
    return [MEASURES[name].record(*learned(*task_of), options, one) for one in each]


@cache
def _losses_around(task_of: tuple, draw: str):
    network, (params, stats, _), (images, labels) = learned(*task_of)

    def loss(params):
        logits = network.apply(params, stats, images, False)[0]
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels])

    @jax.jit
    def pairs(far):
        def pair(key):
            direction = getattr(directions, draw)(key, params)
            at = lambda step: jax.tree.map(lambda p, d: p + step * d, params, direction)  # noqa: E731
            return (loss(at(far)) + loss(at(-far))) / 2 - loss(params)

        return jax.lax.map(pair, jax.random.split(jax.random.key(9), DRAWS), batch_size=400)

    return lambda far: float(jnp.mean(pairs(far))), float(loss(params))


def mean_rise(task_of: tuple, draw: str, far: float, level: bool = False) -> float:
    """The mean over many pairs of a plain loop of L(theta + far d) - L(theta), or of L itself."""
    rise, base = _losses_around(task_of, draw)
    return rise(far) + level * base


@cache
def sigma_of(task_of: tuple, draw: str, rise: float) -> float:
    """Where the mean rise of that loop is ``rise``."""
    mean = _losses_around(task_of, draw)[0]
    return brentq(lambda far: mean(far) - rise, 1e-3, 10, xtol=1e-4, rtol=1e-4)


@cache
def hessian_of(task_of: tuple) -> np.ndarray:
    """The dense Hessian of the loss."""
    network, (params, stats, _), batch = learned(*task_of)
    return np.asarray(dense_hessian(network.frozen_loss(stats), params, batch))
