"""Every optimizer with every sharpness-aware variant, at its defaults, learns the digits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsharp import data, losses
from jaxsharp.optimizers import OPTIMIZERS, SHARPNESS_AWARE
from jaxsharp.optimizers.adabound import amsbound

FACTORIES = {**OPTIMIZERS, "amsbound": amsbound}
VARIANTS = {"none": lambda base: base, **SHARPNESS_AWARE}
SEEDS, EPOCHS, BATCH_SIZE, WIDTH = 3, 30, 16, 64


@functools.cache
def digits():
    """Training and test set: vectors of entries in [0, 1], and labels; all writers are in both.

    The order of the file is that of its writers, and networks reach 88 to 93 percent on the last.
    """
    dataset = data.load("digits")
    splits = dataset.train, dataset.test
    images = np.concatenate([split.images for split in splits]).reshape(-1, 64)
    labels = np.concatenate([split.labels for split in splits])
    order = np.random.default_rng(0).permutation(len(labels))
    images = images[order] / np.float32(dataset.max_pixel)
    return (images[:-360], labels[order][:-360]), (images[-360:], labels[order][-360:])


def start(seed):
    """Parameters, and the examples of every step, the batches reshuffled every epoch."""
    rng = np.random.default_rng(seed)

    def layer(inputs, outputs):
        kernel = rng.normal(0, (2 / inputs) ** 0.5, (inputs, outputs))
        return {"kernel": np.float32(kernel), "bias": np.zeros(outputs, np.float32)}

    params = {"hidden": layer(64, WIDTH), "out": layer(WIDTH, 10)}
    num = len(digits()[0][1])
    used = num // BATCH_SIZE * BATCH_SIZE
    order = [rng.permutation(num)[:used] for _ in range(EPOCHS)]
    return params, np.concatenate(order).reshape(-1, BATCH_SIZE)


def loss(params, batch):
    hidden = jax.nn.relu(batch[0] @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    logits = hidden @ params["out"]["kernel"] + params["out"]["bias"]
    return losses.cross_entropy(logits, batch[1]), logits


def accuracy_after(tx, params, batches, train, test):
    """Test accuracy after training."""

    def step(carry, indices):
        params, state = carry
        batch = jax.tree.map(lambda x: x[indices], train)

        def grad_fn(params, batch=batch):
            return jax.grad(loss, has_aux=True)(params, batch)[0]

        extra = {"grad_fn": grad_fn, "batch": batch}
        updates, state = tx.update(grad_fn(params), state, params, **extra)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), batches)
    return losses.accuracy(loss(params, test)[1], test[1])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("optimizer", FACTORIES)
def test_three_seeds_reach_95_percent(optimizer, variant):
    tx = optax.with_extra_args_support(VARIANTS[variant](FACTORIES[optimizer]()))
    params, batches = jax.tree.map(lambda *xs: jnp.stack(xs), *map(start, range(SEEDS)))
    member = functools.partial(accuracy_after, tx)
    found = jax.jit(jax.vmap(member, (0, 0, None, None)))(params, batches, *digits())
    assert np.all(found > 0.95), found
