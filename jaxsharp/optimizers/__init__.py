"""Optimizers as optax gradient transformations, one file per method.

`OPTIMIZERS` maps a name to a factory f(learning_rate, *, ...). A Python number is a constant of the
compiled program; an array may be traced and takes new values without compiling again. A learning
rate may also be a schedule. Weights decay alike in all: `decay.with_decay`. `SHARPNESS_AWARE` maps
a name to a wrapper f(base, rho, ...) that makes any of them sharpness-aware.

Under `optax.inject_hyperparams`, ints that are lengths and masks that are functions belong in
static_args, and parameters of low precision need hyperparam_dtype=jnp.float32. `optax.masked`,
`optax.multi_transform` and `optax.MultiSteps` belong inside a sharpness-aware wrapper, whose
gradients are those of all parameters and of one batch.
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
