"""Any Equinox model as a network of pure functions."""

import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, PyTree, PyTreeDef

from jaxsharp.core.trees import path_names
from jaxsharp.networks.losses import CROSS_ENTROPY, Loss, loss_of
from jaxsharp.networks.modules import as_inputs
from jaxsharp.networks.network import Network

AXIS = "batch"  # the axis name that BatchNorm is given in Equinox's own examples


def from_equinox(make: Callable, loss: str | Callable | Loss = CROSS_ENTROPY) -> Network:
    """Return the pure functions of the Equinox model that ``make(key)`` returns.

    Of a model of one example, which is mapped over the batch under the axis name "batch"; with
    state (`eqx.nn.make_with_state`) ``make`` returns (model, state), and the model is called as
    ``model(x, state)``. Where its call takes ``key``, training gives each example its own, and
    ``eqx.nn.inference_mode`` is evaluation. Parameters are the arrays of real numbers, in nested
    dicts by their paths, as in ``layers.0.weight``; other arrays are constants. Inputs are cast
    as by `from_nnx`.

    Statistics of eqx.nn.BatchNorm cannot be recomputed, which is refused when it is asked for.
    """
    import equinox as eqx

    def made(key):
        found = make(key)
        return found if isinstance(found, tuple) else (found, None)

    def parts(key):
        model, state = made(key)
        params, rest = eqx.partition(model, eqx.is_inexact_array)
        return params, eqx.filter(rest, eqx.is_array), state

    key = jax.eval_shape(lambda: jax.random.key(0))
    (params, arrays, state), static = eqx.filter_eval_shape(
        lambda key: (parts(key), eqx.filter(made(key)[0], eqx.is_array, inverse=True)), key
    )
    names = paths(params)
    tree, state_tree = jax.tree.structure(params), jax.tree.structure(state)
    has_state = state is not None
    takes_key = "key" in inspect.signature(type(static).__call__).parameters

    @jax.jit
    def init(key):
        params, arrays, state = parts(key)
        stats = {"constants": numbered(arrays), "state": numbered(state)}
        return (
            unflatten_dict(dict(zip(names, jax.tree.leaves(params), strict=True))),
            {name: leaves for name, leaves in stats.items() if leaves},
        )

    arrays_tree = jax.tree.structure(arrays)

    def call(params, stats, inputs, train, key):
        flat = flatten_dict(params)
        model = eqx.combine(
            jax.tree.unflatten(tree, [flat[name] for name in names]),
            from_numbered(arrays_tree, stats.get("constants", {})),
            static,
        )
        model = eqx.nn.inference_mode(model, value=not train)
        if train and flat and jnp.finfo(jnp.result_type(*flat.values())).bits < 32:
            is_norm = lambda part: isinstance(part, eqx.nn.BatchNorm)  # noqa: E731
            model = jax.tree.map(lambda x: precise(x) if is_norm(x) else x, model, is_leaf=is_norm)
        inputs = as_inputs(inputs, params)
        held = from_numbered(state_tree, stats.get("state", {})) if has_state else None
        n = jax.tree.leaves(inputs)[0].shape[0]
        keys = None if key is None else jax.random.split(key, n)

        def one(x, held, key):
            extra = {"key": key} if takes_key else {}
            return model(x, held, **extra) if has_state else (model(x, **extra), None)

        mapped = jax.vmap(one, in_axes=(0, None, 0), out_axes=(0, None), axis_name=AXIS)
        outputs, held = mapped(inputs, held, keys)
        if not (train and has_state):
            return outputs, stats
        return outputs, {**stats, "state": numbered(held)}

    def apply(params, stats, inputs, train):
        return call(params, stats, inputs, train, None)

    def random_apply(params, stats, inputs, train, key):
        return call(params, stats, inputs, train, key)

    return Network(init, random_apply if takes_key else apply, None, loss_of(loss))


def precise(norm: Callable) -> Callable:
    """A BatchNorm that takes statistics in float32, and returns what it is given the precision of.

    eqx.nn.BatchNorm itself would take them in bfloat16 where its input is.
    """

    def call(x, state, **options):
        outputs, state = norm(x.astype(jnp.float32), state, **options)
        return outputs.astype(x.dtype), state

    return call


def numbered(tree: PyTree) -> dict[str, Array]:
    """The leaves of a tree by their places, in a dict, as files keep it."""
    return {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(tree))}


def from_numbered(structure: PyTreeDef, leaves: dict[str, Array]) -> PyTree:
    """The tree of a structure whose leaves `numbered` gave."""
    return jax.tree.unflatten(structure, [leaves[str(i)] for i in range(len(leaves))])


def paths(params: PyTree) -> list[tuple[str, ...]]:
    """Names of the leaves: fields and places on the way to them."""
    found = jax.tree_util.tree_flatten_with_path(params)[0]
    return [path_names(path) for path, _ in found]
