"""Optimizers as optax gradient transformations, one file per method.

`OPTIMIZERS` maps a name to a factory with keyword-only hyper-parameters. Each may be a Python
number or traced, and a learning rate also a schedule. `SHARPNESS_AWARE` maps a name to a wrapper
f(base, rho, ...) that makes any of them sharpness-aware.
"""

from jaxsharp.optimizers import (
    adabound,
    adagrad,
    adam,
    adashift,
    friendly_sam,
    groups,
    gsam,
    looksam,
    momentum_sam,
    sam,
    sgd,
)

OPTIMIZERS = {
    "sgd": sgd.sgd,
    "heavy_ball": sgd.heavy_ball,
    "adagrad": adagrad.adagrad,
    "adam": adam.adam,
    "adashift": adashift.adashift,
    "adabound": adabound.adabound,
}

SHARPNESS_AWARE = {
    "sam": sam.sam,
    "asam": sam.asam,
    "multi_step_sam": sam.multi_step_sam,
    "m_sam": groups.m_sam,
    "gsam": gsam.gsam,
    "look_sam": looksam.look_sam,
    "friendly_sam": friendly_sam.friendly_sam,
    "momentum_sam": momentum_sam.momentum_sam,
}
