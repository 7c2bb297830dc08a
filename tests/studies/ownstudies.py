"""Data, a network, an optimizer and a measure of a user."""

import jax
import numpy as np
import optax
from flax import nnx

from jaxsharp import data, networks

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(48, 5)).astype(np.float32)
CLASSES = (INPUTS[:, 0] > 0).astype(np.int32)
MINE = data.from_arrays((INPUTS[:40], CLASSES[:40]), (INPUTS[40:], CLASSES[40:]), name="mine")
NUMBERS = data.from_arrays((INPUTS, INPUTS @ [1.0, -2, 0.5, 0, 1]), holdout=8, name="numbers")


class Net(nnx.Module):
    """BatchNorm and dropout between two dense layers."""

    def __init__(self, rngs, outputs=2):
        self.first, self.last = nnx.Linear(5, 4, rngs=rngs), nnx.Linear(4, outputs, rngs=rngs)
        self.norm, self.drop = nnx.BatchNorm(4, rngs=rngs), nnx.Dropout(0.3, rngs=rngs)

    def __call__(self, x):
        return self.last(self.drop(jax.nn.relu(self.norm(self.first(x)))))


NETWORK = networks.from_nnx(lambda rngs: Net(rngs))


def lion(learning_rate=0.01, *, weight_decay=0.0):
    """An optimizer of the user's own."""
    return optax.lion(learning_rate, weight_decay=weight_decay)


def root_norm(network, params, stats, batch, key):
    """Norm of the parameters, and half of it as its error."""
    norm = optax.tree.norm(params)
    return norm, norm / 2


SMALL = {
    "optimizers": ["sgd", lion],
    "sam": ["none", "sam"],
    "seeds": 2,
    "vary": {"learning_rate": (0.05, np.float64(0.01))},
    "measures": ["random_perturbation", "top_eigenvalue", root_norm],
    "schedule": "cosine",
    "warmup_epochs": 1,
    "label_smoothing": 0.1,
    "mixup": 0.2,
    "last_batch": "keep",
    "clip_norm": 1.0,
    "num_perturbations": 4,
    "epochs": 4,
    "batch_size": 11,
    "loss_below": None,
}
TABLES = ("runs.csv", "history.csv", "summary.csv", "correlations.csv")
