"""Tiny networks through the package's own layers, for tests of what is built on `Network`."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from jaxsharp import networks
from jaxsharp.data import Dataset, Split
from jaxsharp.networks import layers, models

NUM_CLASSES = 3


def tiny_dataset(num=23, shape=(6, 6, 2), seed=0, num_test=9) -> Dataset:
    """Random images whose labels depend on them, so that a network can learn something."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (num + num_test, *shape), dtype=np.uint8)
    labels = (images.reshape(len(images), -1)[:, :2].astype(int).sum(1) * 3 // 511).astype(np.int32)
    train, test = (Split(images[s], labels[s]) for s in (slice(num), slice(num, None)))
    return Dataset("tiny", train, test, NUM_CLASSES, 255, "random")


@cache  # one network, and so one compilation, for all tests
def mlp(widths=(5, 4), features=72):
    """MLP with ReLU."""

    def build(rngs):
        steps, size = [models.Normalize(255), layers.flatten], features
        for width in widths:
            steps += [layers.dense(size, width, rngs), jax.nn.relu]
            size = width
        return models.Chain(*steps, layers.dense(size, NUM_CLASSES, rngs))

    return networks.from_nnx(build)


@cache
def cnn(lowering="auto"):
    """Two blocks conv -> ReLU -> BatchNorm with SAME and VALID padding, pooling, two dense."""

    def build(rngs):
        return models.Chain(
            models.Normalize(255),
            networks.ConvReLU(2, 3, 3, padding="SAME", lowering=lowering, rngs=rngs),
            networks.BatchNorm(3, rngs=rngs),
            networks.max_pool,
            networks.ConvReLU(3, 4, 2, padding="VALID", lowering=lowering, rngs=rngs),
            networks.BatchNorm(4, rngs=rngs),
            layers.flatten,
            layers.dense(16, 5, rngs),
            jax.nn.relu,
            layers.dense(5, NUM_CLASSES, rngs),
        )

    return networks.from_nnx(build)


@cache
def block():
    """One block conv -> ReLU -> BatchNorm, pooling, one dense: a small program for many chunks."""

    def build(rngs):
        return models.Chain(
            models.Normalize(255),
            networks.ConvReLU(2, 3, 3, padding="SAME", lowering="auto", rngs=rngs),
            networks.BatchNorm(3, rngs=rngs),
            networks.max_pool,
            layers.flatten,
            layers.dense(27, NUM_CLASSES, rngs),
        )

    return networks.from_nnx(build)


def generic_point(network, seed=0, dtype=jnp.float64):
    """Parameters and statistics at which nothing is zero, one or symmetric by chance."""
    params, stats = network.init(jax.random.key(seed))
    rng = np.random.default_rng(seed)

    def shift(leaf, size):
        return jnp.asarray(np.asarray(leaf) + size * rng.uniform(0.2, 1, leaf.shape), dtype)

    return (
        jax.tree.map(lambda leaf: shift(leaf, 0.2), params),
        jax.tree.map(lambda leaf: shift(leaf, 0.5), stats),
    )
