"""Every optimizer with every sharpness-aware variant, at its defaults, learns the digits.

A sharpness-aware optimizer is its base after the variant around `optax.identity()` (shown in
test_sharpness.py). So the gradients of a variant, for all optimizers and seeds, are one program,
the steps of all optimizers another, and no pair of the two has to be compiled.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsharp import data, networks
from jaxsharp.optimizers import OPTIMIZERS, SHARPNESS_AWARE, amsbound

FACTORIES = {**OPTIMIZERS, "amsbound": amsbound}
BASES = {name: factory() for name, factory in FACTORIES.items()}
VARIANTS = {"none": lambda base: base, **SHARPNESS_AWARE}
SEEDS, EPOCHS, BATCH_SIZE, WIDTH = 3, 25, 16, 64
# These programs, unlike those of other tests, run for longer than they take to compile.
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 3})


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
    return networks.cross_entropy(logits, batch[1]), logits


def accuracy_of(params):
    return networks.accuracy(loss(params, digits()[1])[1], digits()[1][1])


def gradients(variant):
    """(init, compiled (params, states, indices) -> (gradients, states)) for stacked parameters."""
    tx = optax.with_extra_args_support(VARIANTS[variant](optax.identity()))
    train = jax.tree.map(jnp.asarray, digits()[0])

    def gradient(params, state, indices):
        batch = jax.tree.map(lambda x: x[indices], train)

        def grad_fn(params, batch=batch):
            return jax.grad(loss, has_aux=True)(params, batch)[0]

        return tx.update(grad_fn(params), state, params, grad_fn=grad_fn, batch=batch)

    of_seeds = jax.vmap(gradient)
    return jax.vmap(jax.vmap(tx.init)), compiled(jax.vmap(of_seeds, (0, 0, None)))


@compiled
def step(params, states, grads):
    """Stacked parameters and a list of states after a step of every optimizer."""

    def of_seed(tx, params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    new = [
        jax.vmap(functools.partial(of_seed, tx))(member(params, i), states[i], member(grads, i))
        for i, tx in enumerate(BASES.values())
    ]
    params, states = zip(*new, strict=True)
    return stack(*params), states


def member(tree, index):
    return jax.tree.map(lambda x: x[index], tree)


def stack(*trees):
    return jax.tree.map(lambda *xs: jnp.stack(xs), *trees)


@functools.cache
def accuracies(variant):
    """Test accuracy after training of every seed, by optimizer."""
    started, batches = zip(*map(start, range(SEEDS)), strict=True)
    of_seeds = stack(*started)
    params = stack(*[of_seeds] * len(BASES))
    states = tuple(jax.vmap(tx.init)(of_seeds) for tx in BASES.values())
    init, gradient = gradients(variant)
    memory = init(params)
    for indices in np.stack(batches, axis=1):
        grads, memory = gradient(params, memory, indices)
        params, states = step(params, states, grads)
    return dict(zip(BASES, jax.vmap(jax.vmap(accuracy_of))(params), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", BASES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_three_seeds_reach_95_percent(optimizer, variant):
    found = accuracies(variant)[optimizer]
    assert found.shape == (SEEDS,) and np.all(found > 0.95), found
