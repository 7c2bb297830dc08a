"""Any module of Flax NNX as a network: pure functions, and statistics made anew."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.interpreters.partial_eval import dce_jaxpr
from jaxtyping import Array, PyTree

from jaxsharp.networks.layers import Moments
from jaxsharp.networks.losses import CROSS_ENTROPY, Loss, loss_of
from jaxsharp.networks.network import Network, is_layer

PARTS = (nnx.Param, nnx.RngState, ...)  # in which a module is split

MODES = {
    "train": {"use_running_average": False, "deterministic": False},
    "eval": {"use_running_average": True, "deterministic": True},
}


def from_nnx(
    build: Callable[[nnx.Rngs], nnx.Module], loss: str | Callable | Loss = CROSS_ENTROPY
) -> Network:
    """Return the pure functions of the NNX module that ``build(rngs)`` makes.

    Parameters and statistics are plain nested dicts; the latter hold whatever variables are
    neither parameters nor random keys. Inputs of real numbers and uint8 are cast to the parameters'
    dtype, other integers are indices and are not. Training draws random numbers (dropout) from
    the key it is given; ValueError where evaluation would too. ``loss`` is one of `LOSSES`, or the
    user's own (`losses.loss_of`).

    Statistics of every nnx.BatchNorm, of any momentum, epsilon and axis, can be recomputed, and of
    the classes that inherit from it unless they call it their own way. Other modules with
    arrays that are neither parameters nor random keys, an axis name, a mask, and a layer that is
    applied twice are refused by name when that is asked for.
    """
    graphs, unknown, transposed = {}, [], []

    def looked_at():
        # nnx.eval_shape would take arrays that are no variables for a part of the graph.
        model = build(nnx.Rngs(0))
        check_arrays(model)
        for path, module in nnx.iter_modules(model):
            if isinstance(module, nnx.ConvTranspose):
                name = ".".join(map(str, (*path, "kernel")))
                transposed.append((name, module.transpose_kernel))
        for mode, attributes in MODES.items():
            model.set_attributes(**attributes, raise_if_not_found=False)
            graphs[mode] = nnx.split(model, *PARTS)[0]
        unknown.extend(collect_moments(model))
        graphs["moments"], _, random, _ = nnx.split(model, *PARTS)
        return random

    random = jax.eval_shape(looked_at)

    @jax.jit  # eagerly, every array would be drawn by a program of its own
    def init(key):
        _, params, _, stats = nnx.split(build(nnx.Rngs(key)), *PARTS)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(stats)

    def call(mode, params, stats, inputs, key=None):
        # Arrays of NumPy, as files have them, could not be written by the module.
        params, stats = jax.tree.map(jnp.asarray, (params, stats))
        module = nnx.merge(graphs[mode], params, keys_from(random, key), stats)
        if mode == "train":
            keep_precision(module, params)
        return module, module(as_inputs(inputs, params))

    def apply(params, stats, inputs, train):
        module, outputs = call("train" if train else "eval", params, stats, inputs)
        return outputs, collections(module) if train else stats

    def random_apply(params, stats, inputs, train, key):
        if not train:
            check_evaluation(partial(call, "eval"), params, stats, inputs)
            return apply(params, stats, inputs, False)
        module, outputs = call("train", params, stats, inputs, key)
        return outputs, collections(module)

    def moments(params, stats, centers, inputs):
        if unknown:
            raise ValueError(
                f"statistics of {', '.join(unknown)} cannot be recomputed; valid is nnx.BatchNorm"
            )
        centered = jax.tree.map(
            lambda layer, about: {**layer, "center": about["mean"]},
            stats,
            centers,
            is_leaf=is_layer,
        )
        module, _ = call("moments", params, centered, inputs)
        for _, layer in nnx.iter_modules(module):
            if isinstance(layer, Moments) and not layer.collected:  # it is not in use
                layer.mean[...] = 0 * layer.mean[...]
        return jax.tree.map(
            lambda layer: {name: layer[name] for name in ("mean", "var")},
            collections(module),
            is_leaf=lambda node: "center" in node,
        )

    draws = bool(jax.tree.leaves(random))
    return Network(
        *(init, random_apply if draws else apply, moments, loss_of(loss), tuple(transposed))
    )


def check_evaluation(call: Callable, params: PyTree, stats: PyTree, inputs: PyTree) -> None:
    """Raise ValueError if the outputs in evaluation mode depend on the random key."""
    shapes = [
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), tree)
        for tree in (params, stats, inputs)
    ]
    key = jax.eval_shape(lambda: jax.random.key(0))
    program = jax.make_jaxpr(lambda key, *rest: call(*rest, key)[1])(key, *shapes)
    _, used = dce_jaxpr(program.jaxpr, [True] * len(program.jaxpr.outvars))
    if used[0]:
        raise ValueError(
            "the network draws random numbers in evaluation; each module that draws must have an "
            "attribute deterministic, as nnx.Dropout has"
        )


def keep_precision(module: nnx.Module, params: PyTree) -> None:
    """Let no BatchNorm widen what it is given to the precision of its statistics.

    With parameters in bfloat16 and statistics in float32 nnx.BatchNorm would return float32, and so
    would all that follows it. Told the former it takes its statistics in float32 all the same.
    """
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(params)}
    if len(dtypes) != 1 or min(dtypes).itemsize >= 4:
        return
    for _, layer in nnx.iter_modules(module):
        if isinstance(layer, nnx.BatchNorm) and layer.dtype is None:
            (layer.dtype,) = dtypes


def collections(module: nnx.Module) -> PyTree:
    """The variables of a module that are neither parameters nor random keys."""
    return nnx.to_pure_dict(nnx.split(module, *PARTS)[3])


def as_inputs(inputs: PyTree, params: PyTree) -> PyTree:
    """Inputs in the one dtype that all parameters have, if so; indices stay integers."""
    dtypes = {jnp.result_type(leaf) for leaf in jax.tree.leaves(params)}

    def cast(x):
        x = jnp.asarray(x)
        is_index = jnp.issubdtype(x.dtype, jnp.integer) and x.dtype != jnp.uint8
        return x if is_index or len(dtypes) != 1 else x.astype(*dtypes)

    return jax.tree.map(cast, inputs)


def keys_from(shapes: PyTree, key: Array | None) -> PyTree:
    """Random state of a module, each of its streams with a key of its own, counted from zero."""
    key = jax.random.key(0) if key is None else key
    leaves, structure = jax.tree.flatten(shapes)
    made = []
    for i, leaf in enumerate(leaves):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            own = jax.random.fold_in(key, i)
            made.append(jax.random.split(own, leaf.shape) if leaf.shape else own)
        else:
            made.append(jnp.zeros(leaf.shape, leaf.dtype))
    return jax.tree.unflatten(structure, made)


def check_arrays(model: nnx.Module) -> None:
    """Raise ValueError for an array of a module that Flax takes for no part of its state."""
    held = {path for path, _ in nnx.to_flat_state(nnx.state(model))}
    for path, module in nnx.iter_modules(model):
        for name, value in vars(module).items():
            if isinstance(value, jax.core.Tracer) and (*path, name) not in held:
                where = ".".join(map(str, (*path, name)))
                raise ValueError(
                    f"{where} is an array, which Flax keeps of a module that is compiled only as "
                    "nnx.Param, nnx.Variable or nnx.data; make it one of them"
                )


def collect_moments(model: nnx.Module) -> list[str]:
    """Make every BatchNorm of a model a `Moments`; returns the other modules with statistics.

    Statistics are all arrays that are neither parameters nor random keys.
    """
    modules, unknown = {tuple(path): module for path, module in nnx.iter_modules(model)}, {}
    for path, _ in nnx.to_flat_state(nnx.split(model, *PARTS)[3]):
        owner = next(path[:i] for i in reversed(range(len(path))) if path[:i] in modules)
        module = modules[owner]
        if type(module).__call__ is nnx.BatchNorm.__call__ and module.axis_name is None:
            module.__class__ = Moments
            module.collected = False
            module.center = nnx.BatchStat(module.mean.get_value())
        elif not isinstance(module, Moments):
            unknown[f"{'.'.join(map(str, owner)) or 'the whole'} ({type(module).__name__})"] = None
    return list(unknown)
