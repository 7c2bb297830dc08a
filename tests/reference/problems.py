"""Three losses with gradients written out by hand: a quadratic, Rosenbrock's function, a network.

Everything is given by formulas. `loss` runs on NumPy's arrays or, with xp=jax.numpy, on JAX's.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy_optimizers
from numpy_optimizers import flatten, unflatten

FILE = Path(__file__).with_name("trajectories.npz")


class Problem(NamedTuple):
    """loss(params, batch, xp) -> number and grad(params, batch) -> dict, from initial `params`."""

    params: dict
    batch: tuple
    loss: Callable
    grad: Callable


def quadratic_loss(params, batch, xp=np):
    """0.5 x^T A x with eigenvalues of A from 1e-3 to 10."""
    x = xp.concatenate([xp.ravel(params[name]) for name in numpy_optimizers.SHAPES])
    return 0.5 * xp.vdot(x, xp.asarray(numpy_optimizers.hessian(), x.dtype) @ x)


def quadratic_grad(params, batch):
    return numpy_optimizers.quadratic_grad(params)


def rosenbrock_start():
    """Off the valley, on which all entries are 1 in the end."""
    size = len(flatten(numpy_optimizers.initial_params()))
    return unflatten(0.5 + 0.4 * np.cos(2.0 * np.arange(size)))


def rosenbrock_loss(params, batch, xp=np):
    """The sum of 100 (x_i+1 - x_i^2)^2 + (1 - x_i)^2."""
    x = xp.concatenate([xp.ravel(params[name]) for name in numpy_optimizers.SHAPES])
    return xp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def rosenbrock_grad(params, batch):
    x = flatten(params)
    g = np.zeros_like(x)
    for i in range(len(x) - 1):
        off = x[i + 1] - x[i] ** 2
        g[i] += -400 * x[i] * off - 2 * (1 - x[i])
        g[i + 1] += 200 * off
    return unflatten(g)


def network_start():
    shapes = {"weight": (3, 4), "bias": (4,), "out_weight": (4, 2), "out_bias": (2,)}
    return {
        name: (0.8 * np.sin(1.0 + i + 1.7 * np.arange(np.prod(shape)))).reshape(shape)
        for i, (name, shape) in enumerate(shapes.items())
    }


def network_data():
    """Twelve examples of three inputs and two targets, which the network cannot fit exactly."""
    inputs = np.sin(1.0 + 2.3 * np.arange(36)).reshape(12, 3)
    return inputs, np.cos(0.5 + 1.9 * np.arange(24)).reshape(12, 2)


def network_loss(params, batch, xp=np):
    """Half the squared error of a tanh network with one hidden layer, mean over the examples."""
    inputs, targets = batch
    hidden = xp.tanh(inputs @ params["weight"] + params["bias"])
    outputs = hidden @ params["out_weight"] + params["out_bias"]
    return 0.5 * xp.sum((outputs - targets) ** 2) / len(inputs)


def network_grad(params, batch):
    inputs, targets = batch
    hidden = np.tanh(inputs @ params["weight"] + params["bias"])
    outputs = hidden @ params["out_weight"] + params["out_bias"]
    error = (outputs - targets) / len(inputs)
    error_hidden = error @ params["out_weight"].T * (1 - hidden**2)
    return {
        "weight": inputs.T @ error_hidden,
        "bias": error_hidden.sum(axis=0),
        "out_weight": hidden.T @ error,
        "out_bias": error.sum(axis=0),
    }


PROBLEMS = {
    "quadratic": Problem(numpy_optimizers.initial_params(), (), quadratic_loss, quadratic_grad),
    "rosenbrock": Problem(rosenbrock_start(), (), rosenbrock_loss, rosenbrock_grad),
    "network": Problem(network_start(), network_data(), network_loss, network_grad),
}


def is_weight(name):
    """Whether ASAM adapts to a tensor: biases are left out."""
    return not name.endswith("bias")


def vector(params):
    return np.concatenate([np.ravel(params[name]) for name in params])


def unvector(x, like):
    params, start = {}, 0
    for name, p in like.items():
        params[name] = x[start : start + p.size].reshape(p.shape)
        start += p.size
    return params


def one_tensor(problem):
    """The problem with all parameters in one tensor."""

    def loss(params, batch, xp=np):
        return problem.loss(unvector(params["weight"], problem.params), batch, xp)

    def grad(params, batch):
        return {"weight": vector(problem.grad(unvector(params["weight"], problem.params), batch))}

    return Problem({"weight": vector(problem.params)}, problem.batch, loss, grad)
