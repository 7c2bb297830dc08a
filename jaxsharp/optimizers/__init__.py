"""Optimizers as optax gradient transformations, one file per method.

`OPTIMIZERS` maps a name to a factory f(learning_rate, *, ...). A hyper-parameter is a Python number,
which is a constant of the compiled program, or an array, which may be traced and take new values
without compiling again; a learning rate may also be a schedule. All decay weights alike:
`decay.with_decay`. `SHARPNESS_AWARE` maps a name to a wrapper f(base, rho, ...) that makes any of
them sharpness-aware. Under `optax.inject_hyperparams` what is no number goes into static_args (an
int that is a length, a mask that is a function), and low-precision parameters need
hyperparam_dtype=jnp.float32. Around `optax.masked` and `optax.multi_transform` goes the
sharpness-aware wrapper, not inside: its gradients are those of all parameters.
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
