"""Losses over whole batches, a network of two views, and NT-Xent written by hand in NumPy."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax

from jaxsharp import data, networks

SIZE = 6  # examples of a fixed batch
RNG = np.random.default_rng(0)
BASE = RNG.normal(size=(41, 1, 3))
VIEWS = (BASE + 0.3 * RNG.normal(size=(41, 2, 3))).astype(np.float32)
KINDS = (np.arange(41) % 3).astype(np.int32)
PAIRS = data.from_arrays((VIEWS[:27], KINDS[:27]), (VIEWS[27:], KINDS[27:]), name="pairs")


def nt_xent(outputs, targets, temperature=0.5):
    """The normalized temperature-scaled cross-entropy of two views of each example."""
    z = outputs / jnp.linalg.norm(outputs, axis=-1, keepdims=True)
    z = jnp.concatenate([z[:, 0], z[:, 1]])
    similar = jnp.where(jnp.eye(len(z), dtype=bool), -1e9, z @ z.T / temperature)
    partner = jnp.roll(jnp.arange(len(z)), len(outputs))
    return optax.softmax_cross_entropy_with_integer_labels(similar, partner).mean()


def retrieved(outputs, targets):
    """Fraction of the examples whose second view is the nearest to their first."""
    z = outputs / jnp.linalg.norm(outputs, axis=-1, keepdims=True)
    return jnp.mean((z[:, 0] @ z[:, 1].T).argmax(1) == jnp.arange(len(z)))


def init(key):
    first, last = jax.random.split(key)
    return {"v": jax.random.normal(first, (3, 4)), "w": jax.random.normal(last, (4, 2))}, {}


def apply(params, stats, x, train):
    return jnp.tanh(x @ params["v"]) @ params["w"], stats


LOSS = networks.whole_batch(nt_xent, SIZE)
NETWORK = networks.Network(init, apply, loss=LOSS)


def reference(params, views, temperature=0.5):
    """NT-Xent of one batch, pair by pair, in float64."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    f = np.tanh(np.asarray(views, np.float64) @ params["v"]) @ params["w"]
    z = [v / np.sqrt(v @ v) for v in [*f[:, 0], *f[:, 1]]]
    n, total = len(views), 0.0
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        others = sum(np.exp(z[i] @ z[k] / temperature) for k in range(2 * n) if k != i)
        total -= np.log(np.exp(z[i] @ z[j] / temperature) / others)
    return total / (2 * n)


def over_batches(fn, views, size=SIZE):
    """The mean of a function over consecutive batches, in a loop; the rest left out."""
    starts = range(0, len(views) - size + 1, size)
    return np.mean([fn(views[i : i + size]) for i in starts], axis=0)


def dense(params, views, targets, loss=nt_xent, size=SIZE):
    """Gradient and Hessian of the mean over consecutive batches, as arrays."""
    flat, unravel = jax.flatten_util.ravel_pytree(params)

    def of_batch(flat, i):
        part = slice(i, i + size)
        return loss(apply(unravel(flat), {}, views[part], False)[0], targets[part])

    starts = range(0, len(views) - size + 1, size)
    derivatives = (
        np.mean([fn(flat, i) for i in starts], axis=0)
        for fn in (jax.grad(of_batch), jax.hessian(of_batch))
    )
    return tuple(derivatives)
