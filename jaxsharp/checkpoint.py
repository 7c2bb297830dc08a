"""Saving and restoring pytrees of arrays; the only place that knows orbax."""

from pathlib import Path

import jax
import numpy as np
from jaxtyping import PyTree


def save(path: Path, tree: PyTree) -> None:
    """Write the arrays of ``tree`` to the new directory ``path``, complete or not at all."""
    from orbax.checkpoint import v1 as ocp  # slow to import, and many commands need no checkpoint

    ocp.save(path.resolve(), {k: np.asarray(v) for k, v in enumerate_leaves(tree)})


def load(path: Path, like: PyTree) -> PyTree:
    """Read what ``save`` wrote, with the structure, shapes and dtypes of ``like``.

    ``like`` holds arrays or ShapeDtypeStructs. Nothing but arrays is read, into a structure that
    is known. Raises ValueError, naming the directory, if it does not hold such a tree.
    """
    from orbax.checkpoint import v1 as ocp

    wanted = dict(enumerate_leaves(like))
    target = {name: np.empty(leaf.shape, leaf.dtype) for name, leaf in wanted.items()}
    try:
        found = ocp.load(path.resolve(), target)
    except (
        Exception
    ) as error:  # orbax raises many kinds for what is missing, cut off or of another shape
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"checkpoint {path} cannot be read: {reason}") from error
    leaves = [found[name] for name in wanted]
    for (name, leaf), got in zip(wanted.items(), leaves, strict=True):
        if got.shape != leaf.shape or got.dtype != leaf.dtype:
            raise ValueError(
                f"checkpoint {path} holds {name} as {got.dtype}{got.shape}; "
                f"expected {leaf.dtype}{leaf.shape}"
            )
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def enumerate_leaves(tree: PyTree) -> list[tuple[str, PyTree]]:
    """Leaves of a tree with their paths as names, so that no container type is stored."""
    leaves = jax.tree.leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in leaves]
