"""What is known of the steps of a run: their rate, preconditioner, and edge of stability.

NaN is an edge that is not known: of the user's own optimizers, of clipped gradients, of
sharpness-aware variants but SAM over plain gradient descent, of coupled weight decay in adaptive
steps, and of any decay for SAM and AdaShift.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, PyTree, ScalarLike

from jaxsharp.measures.edges import formulas, preconditioners

LINEAR = ("sgd", "heavy_ball")
CUTTING = ("m_sam",)  # variants that cut the batch of a step
ADAPTIVE = ("adam", "adagrad", "adabound", "adashift")


class Descent(NamedTuple):
    """An optimizer of the package by name, or None; its variant, and its own constants by name.

    ``constants`` are what its factory takes unless told another.
    """

    optimizer: str | None
    sam: str
    is_clipped: bool
    constants: Mapping[str, float]

    def value(self, hyper: Mapping, name: str) -> ScalarLike:
        """A hyper-parameter of the run, its own or the optimizer's; 0 for one without."""
        return hyper.get(name, self.constants.get(name, 0.0))

    def rate(self, hyper: Mapping) -> ScalarLike | None:
        """The learning rate, of a schedule its peak; None for an optimizer without."""
        return hyper.get("learning_rate", self.constants.get("learning_rate"))

    @property
    def has_preconditioner(self) -> bool:
        """Whether D of its steps is known."""
        return self.optimizer in (*LINEAR, *ADAPTIVE)

    @property
    def needs_gradient(self) -> bool:
        """Whether its edge depends on the norm of the gradient."""
        return self.optimizer == "sgd" and self.sam == "sam" and not self.is_clipped

    @property
    def takes_batch(self) -> bool:
        """Whether its step cuts the batch itself."""
        return self.sam in CUTTING


def diagonal_of(descent: Descent, state: PyTree, hyper: Mapping, rate: ScalarLike) -> PyTree | None:
    """D of an optimizer that has one, of the step with this rate; None where it is 1."""
    own = descent.constants
    if descent.optimizer == "adam":
        return preconditioners.adam_preconditioner(state, b2=own["b2"], eps=own["eps"])
    if descent.optimizer == "adagrad":
        return preconditioners.adagrad_preconditioner(state, eps=own["eps"])
    if descent.optimizer == "adashift":
        return preconditioners.adashift_preconditioner(state, b2=own["b2"], eps=own["eps"])
    if descent.optimizer == "adabound":
        names = ("final_lr", "gamma", "b1", "b2", "eps")
        given = {name: own[name] for name in names}
        given["base_learning_rate"] = descent.rate(hyper)
        return preconditioners.adabound_preconditioner(state, rate, **given)
    return None


def eigenvalue_edge(
    descent: Descent,
    hyper: Mapping,
    rate: ScalarLike,
    steps: Array,
    *,
    preconditioned: bool,
    gradient_norm: ScalarLike | None = None,
) -> ScalarLike:
    """The edge of the largest eigenvalue after so many steps; NaN where there is none."""
    own, optimizer = descent.constants, descent.optimizer
    coupled, decoupled = (
        descent.value(hyper, name) for name in ("weight_decay", "decoupled_weight_decay")
    )
    apart = {"decoupled_weight_decay": decoupled}
    undecayed = (jnp.asarray(coupled) == 0) & (jnp.asarray(decoupled) == 0)
    if descent.is_clipped or (descent.sam != "none" and gradient_norm is None):
        return jnp.nan
    if descent.sam != "none":
        edge = formulas.sam_edge(rate, rho=descent.value(hyper, "rho"), gradient_norm=gradient_norm)
        return jnp.where(undecayed, edge, jnp.nan)
    if optimizer in LINEAR:
        momentum = descent.value(hyper, "momentum")
        return formulas.heavy_ball_edge(rate, momentum=momentum, weight_decay=coupled, **apart)
    if not preconditioned or optimizer not in ADAPTIVE:
        return jnp.nan
    if optimizer == "adashift":
        edge = formulas.adashift_edge(rate, b1=own["b1"], window=int(own["window"]))
        return jnp.where(undecayed, edge, jnp.nan)
    if optimizer == "adagrad":
        edge = formulas.heavy_ball_edge(rate, **apart)
    else:
        count = steps if optimizer == "adam" else None
        edge = formulas.adam_edge(rate, b1=own["b1"], count=count, **apart)
    return jnp.where(jnp.asarray(coupled) == 0, edge, jnp.nan)


def batch_edges_of(
    descent: Descent, hyper: Mapping, rate: ScalarLike | None
) -> tuple[ScalarLike, ScalarLike]:
    """The edges of the batch sharpness, of SGD with momentum or without; NaN for others."""
    if rate is None or descent.is_clipped or descent.sam != "none":
        return jnp.nan, jnp.nan
    if descent.optimizer not in LINEAR:
        return jnp.nan, jnp.nan
    decays = (descent.value(hyper, name) for name in ("weight_decay", "decoupled_weight_decay"))
    none = jnp.array(True)
    for decay in decays:
        none &= jnp.asarray(decay) == 0
    edges = formulas.batch_edges(rate, momentum=descent.value(hyper, "momentum"))
    return tuple(jnp.where(none, edge, jnp.nan) for edge in edges)
