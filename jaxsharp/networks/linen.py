"""Any module of Flax Linen as a network: pure functions, and statistics made anew."""

import inspect
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.errors import InvalidRngError
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PyTree

from jaxsharp.core.trees import widen
from jaxsharp.networks.losses import CROSS_ENTROPY, Loss, loss_of
from jaxsharp.networks.modules import as_inputs
from jaxsharp.networks.network import Network

# Arguments by which modules are told the mode, and whether they are true in training.
MODES = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
    "inference": False,
}
STATISTICS = "batch_stats"


@jax.transfer_guard("allow")
def from_linen(
    module: nn.Module, example: PyTree, loss: str | Callable | Loss = CROSS_ENTROPY
) -> Network:
    """Return the pure functions of a Linen module.

    ``example`` is an input of one or more examples, of which shapes and dtypes count. The mode is
    told by whichever of `MODES` the module's call takes; collections other than the parameters are
    the network's statistics, of which training may change all. Training draws random numbers
    (dropout, and streams of any other name) from the key it is given; ValueError where evaluation
    would too. Parameters are nested dicts, inputs are cast as by `from_nnx`.

    Statistics of every nn.BatchNorm can be recomputed; other modules with statistics, an axis
    name, a mask, and a layer that is applied twice are refused by name when that is asked for.
    """
    told = [name for name in inspect.signature(type(module).__call__).parameters if name in MODES]
    tell = lambda train: {name: MODES[name] == train for name in told}  # noqa: E731
    one = jax.tree.map(lambda x: jnp.zeros((1, *np.shape(x)[1:]), jnp.result_type(x)), example)

    @jax.jit
    def init(key):
        variables = dict(module.init(key, real(one), **tell(False)))
        params = variables.pop("params", {})
        return params, variables

    transposed = {}
    with nn.intercept_methods(partial(note_transposed, transposed)):
        shapes = jax.eval_shape(init, jax.eval_shape(lambda: jax.random.key(0)))

    def random_apply(params, stats, inputs, train, key):
        variables = {"params": params, **stats}
        if not train:
            return module.apply(variables, as_inputs(inputs, params), **tell(False)), stats
        # A stream of any other name is drawn from that of the parameters.
        rngs = None if key is None else {"params": key}
        mutable = list(stats) or False
        found = module.apply(
            variables, as_inputs(inputs, params), **tell(True), rngs=rngs, mutable=mutable
        )
        return found if mutable else (found, stats)

    def apply(params, stats, inputs, train):
        return random_apply(params, stats, inputs, train, None)

    def moments(params, stats, centers, inputs):
        collected = {}
        with nn.intercept_methods(partial(collect, collected, centers)):
            apply(params, stats, inputs, False)
        tree = flatten_dict(stats)
        missing = [".".join(path[1:-1] or path) for path in tree if path[:-1] not in collected]
        if missing:
            raise ValueError(
                f"statistics of {missing[0]} cannot be recomputed; valid is nn.BatchNorm, applied "
                "without a mask or an axis name"
            )
        return unflatten_dict({path: collected[path[:-1]][path[-1]] for path in tree})

    if draws(partial(apply, train=False), *shapes, one):
        raise ValueError(
            f"{type(module).__name__} draws random numbers in evaluation; its call must take one "
            f"of {', '.join(MODES)}, and hand it to what draws"
        )
    is_random = draws(partial(apply, train=True), *shapes, one)
    return Network(
        *(init, random_apply if is_random else apply, moments, loss_of(loss)),
        transposed=tuple(transposed.items()),
    )


def draws(apply: Callable, params: PyTree, stats: PyTree, inputs: PyTree) -> bool:
    """Whether a mode of a module asks for a random key that it is not given."""
    try:
        jax.eval_shape(apply, params, stats, inputs)
    except InvalidRngError:
        return True
    return False


def note_transposed(transposed: dict, next_call, args, kwargs, context):
    """Note, at each transposed convolution, the name of its kernel and its transpose_kernel."""
    layer = context.module
    if isinstance(layer, nn.ConvTranspose) and context.method_name == "__call__":
        transposed[".".join((*layer.path, "kernel"))] = layer.transpose_kernel
    return next_call(*args, **kwargs)


def real(inputs: PyTree) -> PyTree:
    """Inputs of uint8, which no module takes, as float32."""
    return jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.uint8 else x, inputs)


def collect(collected: dict, centers: PyTree, next_call, args, kwargs, context):
    """Note, at each BatchNorm, the moments of its input about its center."""
    layer = context.module
    if type(layer) is not nn.BatchNorm or context.method_name != "__call__":
        return next_call(*args, **kwargs)
    path = (STATISTICS, *layer.path)
    masked = len(args) > 2 or kwargs.get("mask") is not None
    if path in collected or masked or layer.axis_name is not None:
        what = "is applied twice" if path in collected else "has a mask or an axis name"
        raise ValueError(
            f"statistics cannot be recomputed: {'.'.join(layer.path)} (BatchNorm) {what}"
        )
    x, center = args[0], centers[STATISTICS]
    for name in layer.path:
        center = center[name]
    own = {axis % x.ndim for axis in np.atleast_1d(layer.axis).tolist()}
    axes = tuple(axis for axis in range(x.ndim) if axis not in own)
    about = widen(x) - jnp.expand_dims(center["mean"], axes)
    means = {"mean": about.mean(axes), "var": jnp.square(about).mean(axes)}
    collected[path] = {k: v.astype(center[k].dtype) for k, v in means.items()}
    return next_call(*args, **kwargs)
