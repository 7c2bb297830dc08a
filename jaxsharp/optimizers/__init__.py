"""Optimizers as optax gradient transformations, one file per method.

`OPTIMIZERS` maps a name to a factory with keyword-only hyper-parameters. Each may be a Python
number or traced, and a learning rate also a schedule. `sam.sam` wraps any of them.
"""

from jaxsharp.optimizers import adabound, adagrad, adam, adashift, sgd

OPTIMIZERS = {
    "sgd": sgd.sgd,
    "heavy_ball": sgd.heavy_ball,
    "adagrad": adagrad.adagrad,
    "adam": adam.adam,
    "adashift": adashift.adashift,
    "adabound": adabound.adabound,
}
