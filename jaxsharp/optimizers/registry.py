"""The optimizers and sharpness-aware variants that a study may name; a new one is a line here."""

import inspect
from collections.abc import Callable

from jaxsharp.optimizers.adabound import adabound
from jaxsharp.optimizers.adagrad import adagrad
from jaxsharp.optimizers.adam import adam
from jaxsharp.optimizers.adashift import adashift
from jaxsharp.optimizers.sgd import heavy_ball, sgd
from jaxsharp.optimizers.sharpness_aware.friendly_sam import friendly_sam
from jaxsharp.optimizers.sharpness_aware.groups import m_sam
from jaxsharp.optimizers.sharpness_aware.gsam import gsam
from jaxsharp.optimizers.sharpness_aware.looksam import look_sam
from jaxsharp.optimizers.sharpness_aware.momentum_sam import momentum_sam
from jaxsharp.optimizers.sharpness_aware.sam import asam, multi_step_sam, sam

OPTIMIZERS = {
    "sgd": sgd,
    "heavy_ball": heavy_ball,
    "adagrad": adagrad,
    "adam": adam,
    "adashift": adashift,
    "adabound": adabound,
}

SHARPNESS_AWARE = {
    "sam": sam,
    "asam": asam,
    "multi_step_sam": multi_step_sam,
    "m_sam": m_sam,
    "gsam": gsam,
    "look_sam": look_sam,
    "friendly_sam": friendly_sam,
    "momentum_sam": momentum_sam,
}


def own_arguments(factory: Callable) -> dict[str, float]:
    """The numeric arguments of a factory, each with the value that it takes unless told another."""
    parameters = inspect.signature(factory).parameters.values()
    numeric = [p for p in parameters if type(p.default) in (int, float)]  # bool is a switch
    return {p.name: float(p.default) for p in numeric}
