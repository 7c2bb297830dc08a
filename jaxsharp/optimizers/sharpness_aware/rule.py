"""Sharpness-aware gradients: what their variants share.

A variant is a `Rule`: from the gradient at the parameters, and more gradients where it wants them,
it makes the one that the base optimizer gets. `sharp_gradient` applies a rule as a pure function,
`sharpness_aware` as an optax wrapper. What belongs to the clean pass stays there: the loss,
auxiliary output such as BatchNorm statistics, clipping, momentum and weight decay of the base.

On several devices. Under jit over a sharded batch gradients are those of the whole batch and the
ascent is global. Inside shard_map or pmap each device sees its own examples: with `axis_name` all
gradients are averaged over that axis, so that the result is that of one device; without it every
device ascends on its own, which is m-SAM with m examples a device, and the caller averages.

Gradient accumulation. `per_group(value_and_grad, m)` is the gradient of a batch in parts of
m: give it to `sharp_gradient`, and the ascent is that of the whole batch. The other way round,
`per_group` of a sharp gradient, or `optax.MultiSteps(base, k).gradient_transformation()` as the
base, is m-SAM. `MultiSteps` around a wrapper would take the sharp gradient of the last part alone.

Masks. With `mask`, a pytree of bools of the structure of the parameters or its upper part, or a
function of the parameters that returns one, the ascent and what a variant projects or remembers
are those of the chosen parameters alone; the others get their gradient at the perturbed point (in
LookSAM's steps in between, the clean one). What moves is the base's to say. `optax.masked` around
a wrapper would hide parameters that grad_fn needs, and is refused.
"""

import inspect
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree, ScalarLike

from jaxsharp.core.trees import Vector, added, check_real, mask_of, select, widen
from jaxsharp.optimizers.sharpness_aware.ascent import Mask

Rho = ScalarLike | optax.Schedule
GradFn = Callable[[PyTree], PyTree]


class Rule(NamedTuple):
    """A sharpness-aware gradient with a memory from step to step.

    `init(params)` is the memory before the first step. `gradient(grad_fn, grads, params, memory,
    step)` returns the gradient and the memory; grad_fn(params) is the gradient on the same batch
    elsewhere, `grads` the one at `params`, `step` counts from 0. All in at least float32.
    With `takes_batch`, `gradient` gets batch=... too, and grad_fn takes (params, batch).
    """

    init: Callable[[PyTree], PyTree]
    gradient: Callable[..., tuple[PyTree, PyTree]]
    takes_batch: bool = False


class SharpnessAwareState(NamedTuple):
    """Steps taken, the memory of the rule, and the state of the base optimizer."""

    count: Int[Array, ""]
    memory: PyTree
    base: PyTree


def chosen(tree: PyTree, params: PyTree, mask: Mask) -> PyTree:
    """Return the part of a vector like `params` along which the ascent goes, None elsewhere.

    Raises ValueError for a mask that does not fit, and for a chosen part that is not real.
    """
    part = select(tree, mask_of(params, mask))
    check_real(part)
    return part


def no_memory(mask: Mask = None) -> Callable[[PyTree], tuple[()]]:
    """Return `Rule.init` of a rule that remembers nothing; it checks the mask."""

    def init(params):
        chosen(params, params, mask)
        return ()

    return init


def zero_memory(mask: Mask = None) -> Callable[[PyTree], Vector]:
    """Return `Rule.init` of a rule that remembers a vector of the chosen part, at first zero."""
    return lambda params: optax.tree.zeros_like(widen(chosen(params, params, mask)))


def at_step(rho: Rho, step: Int[Array, ""] | int) -> ScalarLike:
    """Return the value of a number or a schedule."""
    return rho(step) if callable(rho) else rho


def shifted(params: PyTree, shift: Vector) -> PyTree:
    """Return params + shift in the dtypes of `params`, rounded once; None in `shift` is zero."""
    return optax.tree.cast_like(added(shift, widen(params)), params)


def sharp_gradient(
    value_and_grad: Callable, rule: Rule, axis_name: str | None = None
) -> tuple[Callable, Callable]:
    """Return (init, gradient) for the gradients of a rule, as pure functions.

    gradient(params, memory, step, *args) -> (value, grads, memory), the memory at first
    init(params). value_and_grad(params, *args) -> (value, grads); `value`, which may be
    (loss, aux), is that of the clean pass.
    """
    if rule.takes_batch:
        raise ValueError("m-SAM as a pure function is groups.per_group(sam_gradient(...), m)")

    def gradient(params, memory, step, *args, **kwargs):
        value, grads = value_and_grad(params, *args, **kwargs)

        def grad_fn(point):
            return value_and_grad(point, *args, **kwargs)[1]

        return value, *_apply(rule, axis_name, grad_fn, grads, params, memory, step)

    return rule.init, gradient


def sharpness_aware(
    base: optax.GradientTransformation, rule: Rule, axis_name: str | None = None
) -> optax.GradientTransformationExtraArgs:
    """Return the base optimizer on the gradients of a rule.

    update(grads, state, params, grad_fn=...), with grad_fn(params) -> grads on the same batch, or
    grad_fn(params, i) as `optax.contrib.sam` with opaque_mode calls it; i counts its calls in an
    update from 0. Gradients have the structure of `params`, and may hold each array in a box of its
    own, as the variables of Flax NNX do; ValueError for others. Momentum, clipping and weight decay
    of `base` act on the sharp gradient and the clean params; all extra arguments but grad_fn reach
    it. Transformations chained before change `grads`, so the direction of the ascent, alone. A
    schedule counts updates.
    """
    if not isinstance(base, optax.GradientTransformation):
        raise TypeError(f"base must be an optax.GradientTransformation, got {base!r}")
    base = optax.with_extra_args_support(base)

    def init(params):
        hidden = jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, optax.MaskedNode))
        if any(isinstance(leaf, optax.MaskedNode) for leaf in hidden):
            raise ValueError(
                "params hold optax.MaskedNode: optax.masked or multi_transform around a "
                "sharpness-aware optimizer hides parameters that grad_fn needs; put it inside, "
                "around the base, and give the sharpness-aware optimizer its own mask"
            )
        return SharpnessAwareState(jnp.zeros((), jnp.int32), rule.init(params), base.init(params))

    def update(grads, state, params=None, *, grad_fn=None, **extra_args):
        needed = {"params": params, "grad_fn": grad_fn}
        if rule.takes_batch:
            needed["batch"] = extra_args.get("batch")
        for name, value in needed.items():
            if value is None:
                call = ", ".join(f"{key}={key}" for key in list(needed)[1:])
                signature = f"update(grads, state, params, {call})"
                raise ValueError(f"{name} is None; sharpness-aware steps need {signature}")
        batch = {"batch": needed["batch"]} if rule.takes_batch else {}
        grad_fn = grad_fn if rule.takes_batch else _of_params(grad_fn)
        args = (grad_fn, grads, params, state.memory, state.count)
        sharp, memory = _apply(rule, axis_name, *args, **batch)
        updates, base_state = base.update(sharp, state.base, params, **extra_args)
        count = optax.safe_increment(state.count)
        return updates, SharpnessAwareState(count, memory, base_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _apply(rule, axis_name, grad_fn, grads, params, memory, step, **batch):
    """The rule in at least float32; gradients and memory keep their dtypes."""

    def prepared(gradient):
        gradient = widen(gradient)
        return gradient if axis_name is None else jax.lax.pmean(gradient, axis_name)

    def wide_grad_fn(point, *args):
        return prepared(_unboxed(grad_fn(point, *args), params, "the result of grad_fn"))

    grads = _unboxed(grads, params, "grads")
    args = (wide_grad_fn, prepared(grads), params, memory, step)
    sharp, new_memory = rule.gradient(*args, **batch)
    return optax.tree.cast_like(sharp, grads), optax.tree.cast_like(new_memory, memory)


def _unboxed(gradient, params, name):
    """The gradient as a tree like `params`, of which each leaf may stand in a box of its own."""
    places, structure = jax.tree_util.tree_flatten_with_path(params)
    try:
        boxes = [jax.tree.leaves(box) for box in structure.flatten_up_to(gradient)]
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{name} must have the structure of params: {str(error).splitlines()[0]}"
        ) from error
    for (path, leaf), box in zip(places, boxes, strict=True):
        if [jnp.shape(array) for array in box] != [jnp.shape(leaf)]:
            raise ValueError(
                f"{name} must have the structure of params: at {jax.tree_util.keystr(path)} it has "
                f"{', '.join(str(jnp.shape(x)) for x in box) or 'nothing'}, not {jnp.shape(leaf)}"
            )
    return structure.unflatten([array for (array,) in boxes])


def _of_params(grad_fn):
    """The gradient as a function of the parameters alone."""
    try:
        parameters = inspect.signature(grad_fn).parameters.values()
    except (TypeError, ValueError):
        return grad_fn
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [p for p in parameters if p.kind in positional and p.default is p.empty]
    calls = itertools.count()
    return (lambda params: grad_fn(params, next(calls))) if len(required) == 2 else grad_fn
