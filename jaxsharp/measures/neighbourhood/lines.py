"""The loss along a line and over a plane of parameter space.

    L(theta + t d),    L(theta + x d_1 + y d_2)

Directions are those of `directions`, eigenvectors (`curvature.top_eigenpairs`), or any vectors like
the parameters.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, PyTree

from jaxsharp.core.chunks import check_pair
from jaxsharp.core.memory import Budget, budget
from jaxsharp.core.programs import own_settings
from jaxsharp.measures.neighbourhood.losses import loss_around, side_by_side
from jaxsharp.networks.checks import check_alone
from jaxsharp.networks.network import Network

Numbers = ArrayLike | Sequence[float | int]


@own_settings()
def loss_along(
    network: Network,
    params: PyTree,
    stats: PyTree,
    batch: PyTree,
    direction: PyTree,
    distances: Numbers,
    *,
    recompute: bool = False,
    chunk_size: int | None = None,
    vmapped: int | None = None,
    memory: Budget | None = None,
) -> Float[Array, " n"]:
    """Return L(theta + t d) for every t of ``distances``, n numbers, d the ``direction`` as it is.

    Between two networks d is `directions.between` and t from 0 to 1. The loss is the network's over
    ``batch``, BatchNorm statistics are kept, or with ``recompute`` made anew over ``batch`` at
    every point: those of one network say little of another. Values that are not finite are
    returned as they are. Cost: a forward pass a point (as many more for each BatchNorm layer with
    ``recompute``), ``chunk_size`` examples and ``vmapped`` points at a time, as in
    `random_perturbation`. Pure; its parameters may be traced. Raises ValueError for a direction of
    other names or shapes than the parameters, distances that are not one axis of finite numbers,
    and a network that evaluates an example by others.
    """
    places = _places("distances", distances)[:, None]
    return _losses(
        *(network, recompute, chunk_size, vmapped, memory),
        *(params, stats, batch, (direction,), places),
    )


@own_settings()
def loss_plane(
    network: Network,
    params: PyTree,
    stats: PyTree,
    batch: PyTree,
    directions: tuple[PyTree, PyTree],
    xs: Numbers,
    ys: Numbers,
    *,
    recompute: bool = False,
    chunk_size: int | None = None,
    vmapped: int | None = None,
    memory: Budget | None = None,
) -> Float[Array, "rows columns"]:
    """Return L(theta + x d_1 + y d_2), a row for every y and a column for every x.

    Otherwise as `loss_along`.
    """
    x, y = np.meshgrid(_places("xs", xs), _places("ys", ys))
    places = np.stack([x.ravel(), y.ravel()], axis=1)
    found = _losses(
        *(network, recompute, chunk_size, vmapped, memory),
        *(params, stats, batch, tuple(directions), places),
    )
    return found.reshape(x.shape)


def _places(name, values):
    found = np.asarray(values, np.float64)
    if found.ndim != 1 or not found.size or not np.all(np.isfinite(found)):
        raise ValueError(
            f"{name} have shape {found.shape} and {np.count_nonzero(~np.isfinite(found))} that are "
            "not finite; they must be one axis of finite numbers"
        )
    return found


def _losses(
    network, recompute, chunk_size, vmapped, memory, params, stats, batch, directions, places
):
    check_pair(batch)
    check_alone(network, params, stats, batch[0])
    shapes = jax.tree.map(jnp.shape, params)
    for direction in directions:
        if jax.tree.map(jnp.shape, direction) != shapes:
            raise ValueError(
                "a direction has other names or shapes than params; valid are the same"
            )
    static = (network, recompute, chunk_size, vmapped, memory or budget())
    dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(params))
    return losses_at(*static, params, stats, batch, directions, jnp.asarray(places, dtype))


@partial(jax.jit, static_argnums=range(5))
def losses_at(
    network: Network,
    recompute: bool,
    chunk_size: int | None,
    vmapped: int | None,
    memory: Budget,
    params: PyTree,
    stats: PyTree,
    batch: PyTree,
    directions: tuple[PyTree, ...],
    places: Float[Array, "n dimensions"],
) -> Float[Array, " n"]:
    """L(theta + sum_k c_k d_k) for every row c of ``places``."""
    vmapped = side_by_side(vmapped, memory)
    loss = loss_around(
        *(network, params, stats, batch, memory.divided(vmapped)),
        recompute=recompute,
        chunk_size=chunk_size,
    )

    def at(place):
        moved = params
        for share, direction in zip(place, directions, strict=True):
            moved = optax.tree.add_scale(moved, share, direction)
        return loss(optax.tree.cast_like(moved, params))

    with own_settings():
        return jax.lax.map(at, places, batch_size=vmapped)
