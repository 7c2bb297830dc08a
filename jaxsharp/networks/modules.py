"""Any module of Flax NNX as a network: pure functions, and statistics made anew."""

from collections.abc import Callable

import jax
from flax import nnx

from jaxsharp.networks.layers import Moments
from jaxsharp.networks.network import Network, is_layer

MODES = {
    "train": {"use_running_average": False, "deterministic": False},
    "eval": {"use_running_average": True, "deterministic": True},
}


def from_nnx(build: Callable[[nnx.Rngs], nnx.Module]) -> Network:
    """Return the pure functions of the NNX module that ``build(rngs)`` makes.

    Parameters and statistics are plain nested dicts. Images are cast to the parameters' dtype.

    Statistics of every nnx.BatchNorm, of any momentum, epsilon and axis, can be recomputed, and of
    the classes that inherit from it unless they call it their own way. Other modules with
    statistics, an axis name, a mask, and a layer that is applied twice are refused by name when
    that is asked for.
    """
    model = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    graphs = {}
    for mode, attributes in MODES.items():
        model.set_attributes(**attributes, raise_if_not_found=False)
        graphs[mode] = nnx.split(model, nnx.Param, nnx.BatchStat)[0]
    unknown = collect_moments(model)
    graphs["moments"] = nnx.split(model, nnx.Param, nnx.BatchStat)[0]

    @jax.jit  # eagerly, every array would be drawn by a program of its own
    def init(key):
        _, params, stats = nnx.split(build(nnx.Rngs(key)), nnx.Param, nnx.BatchStat)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(stats)

    def call(mode, params, stats, images):
        module = nnx.merge(graphs[mode], params, stats)
        dtype = jax.tree.leaves(params)[0].dtype
        return module, module(images.astype(dtype))

    def apply(params, stats, images, train):
        module, logits = call("train" if train else "eval", params, stats, images)
        return logits, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))

    def moments(params, stats, centers, images):
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
        module, _ = call("moments", params, centered, images)
        for _, layer in nnx.iter_modules(module):
            if isinstance(layer, Moments) and not layer.collected:  # it is not in use
                layer.mean[...] = 0 * layer.mean[...]
        found = nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))
        return jax.tree.map(
            lambda layer: {name: layer[name] for name in ("mean", "var")},
            found,
            is_leaf=lambda node: "center" in node,
        )

    return Network(init, apply, moments)


def collect_moments(model: nnx.Module) -> list[str]:
    """Make every BatchNorm of a model a `Moments`; returns the other modules with statistics."""
    unknown = []
    for path, module in nnx.iter_modules(model):
        if not any(isinstance(value, nnx.BatchStat) for value in vars(module).values()):
            continue
        known = type(module).__call__ is nnx.BatchNorm.__call__ and module.axis_name is None
        if not known:
            unknown.append(f"{'.'.join(map(str, path))} ({type(module).__name__})")
            continue
        module.__class__ = Moments
        module.collected = False
        module.center = nnx.BatchStat(module.mean.get_value())
    return unknown
