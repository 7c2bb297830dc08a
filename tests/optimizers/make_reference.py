"""Write reference.json: parameters of PyTorch's own optimizers on the quadratic of the tests.

    pip install torch==2.13.0 numpy && pip install --no-deps adabound==0.0.5
    python tests/optimizers/make_reference.py

Neither package is a dependency of jaxsharp or of its tests.
"""

import json
from pathlib import Path

import adabound
import numpy as np
import torch
from numpy_optimizers import SHAPES, flatten, initial_params, quadratic_grad

STEPS = (1, 2, 5, 10, 100)
OPTIMIZERS = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.1),
    "heavy_ball": lambda params: torch.optim.SGD(params, lr=0.01, momentum=0.8),
    "adagrad": lambda params: torch.optim.Adagrad(params, lr=0.01),
    "adam": lambda params: torch.optim.Adam(params, lr=0.001),
    "adabound": lambda params: adabound.AdaBound(params, lr=0.001, final_lr=0.1, gamma=1e-3),
    "amsbound": lambda params: adabound.AdaBound(
        params, lr=0.001, final_lr=0.1, gamma=1e-3, amsbound=True
    ),
}


def vectors(make_optimizer):
    tensors = {name: torch.tensor(value) for name, value in initial_params().items()}
    optimizer = make_optimizer([tensors[name] for name in SHAPES])
    found = {}
    for step in range(1, max(STEPS) + 1):
        grads = quadratic_grad({name: tensor.numpy() for name, tensor in tensors.items()})
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(np.asarray(grads[name]))
        optimizer.step()
        if step in STEPS:
            now = {name: tensor.numpy() for name, tensor in tensors.items()}
            found[str(step)] = flatten(now).tolist()
    return found


if __name__ == "__main__":
    reference = {name: vectors(make_optimizer) for name, make_optimizer in OPTIMIZERS.items()}
    Path(__file__).with_name("reference.json").write_text(json.dumps(reference, indent=1) + "\n")
