"""Optimizers as optax gradient transformations, and SAM and its variants over any of them.

`OPTIMIZERS` maps a name to a factory f(learning_rate, *, ...). A Python number is a constant of the
compiled program; an array may be traced and takes new values without compiling again. A learning
rate may also be a schedule. Weights decay alike in all: `with_decay`. `SHARPNESS_AWARE` maps a name
to a wrapper f(base, rho, ...) that makes any of them sharpness-aware.

Under `optax.inject_hyperparams`, ints that are lengths and masks that are functions belong in
static_args, and parameters of low precision need hyperparam_dtype=jnp.float32. `optax.masked`,
`optax.multi_transform` and `optax.MultiSteps` belong inside a sharpness-aware wrapper, whose
gradients are those of all parameters and of one batch.

    adabound, adagrad, adam, adashift, sgd   one file a method
    decay             decoupled weight decay, alike in all
    precision         moments in float32 for parameters of less
    arguments         their checks
    sharpness_aware   a room of its own: SAM and its variants
    registry          OPTIMIZERS and SHARPNESS_AWARE
"""

from jaxsharp.optimizers.adabound import AdaBoundState as AdaBoundState
from jaxsharp.optimizers.adabound import adabound as adabound
from jaxsharp.optimizers.adabound import amsbound as amsbound
from jaxsharp.optimizers.adagrad import AdagradState as AdagradState
from jaxsharp.optimizers.adagrad import adagrad as adagrad
from jaxsharp.optimizers.adam import adam as adam
from jaxsharp.optimizers.adashift import AdaShiftState as AdaShiftState
from jaxsharp.optimizers.adashift import adashift as adashift
from jaxsharp.optimizers.decay import with_decay as with_decay
from jaxsharp.optimizers.precision import keep_dtypes as keep_dtypes
from jaxsharp.optimizers.registry import OPTIMIZERS as OPTIMIZERS
from jaxsharp.optimizers.registry import SHARPNESS_AWARE as SHARPNESS_AWARE
from jaxsharp.optimizers.sgd import heavy_ball as heavy_ball
from jaxsharp.optimizers.sgd import sgd as sgd
from jaxsharp.optimizers.sharpness_aware.ascent import Mask as Mask
from jaxsharp.optimizers.sharpness_aware.ascent import adaptive_ascent_step as adaptive_ascent_step
from jaxsharp.optimizers.sharpness_aware.ascent import ascent_step as ascent_step
from jaxsharp.optimizers.sharpness_aware.ascent import weights_only as weights_only
from jaxsharp.optimizers.sharpness_aware.friendly_sam import friendly_sam as friendly_sam
from jaxsharp.optimizers.sharpness_aware.groups import m_sam as m_sam
from jaxsharp.optimizers.sharpness_aware.groups import per_group as per_group
from jaxsharp.optimizers.sharpness_aware.gsam import gsam as gsam
from jaxsharp.optimizers.sharpness_aware.looksam import look_sam as look_sam
from jaxsharp.optimizers.sharpness_aware.momentum_sam import momentum_sam as momentum_sam
from jaxsharp.optimizers.sharpness_aware.rule import Rule as Rule
from jaxsharp.optimizers.sharpness_aware.rule import SharpnessAwareState as SharpnessAwareState
from jaxsharp.optimizers.sharpness_aware.rule import sharpness_aware as sharpness_aware
from jaxsharp.optimizers.sharpness_aware.sam import asam as asam
from jaxsharp.optimizers.sharpness_aware.sam import multi_step_sam as multi_step_sam
from jaxsharp.optimizers.sharpness_aware.sam import sam as sam
from jaxsharp.optimizers.sharpness_aware.sam import sam_gradient as sam_gradient
