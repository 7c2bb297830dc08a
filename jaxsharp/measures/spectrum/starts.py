"""Where Lanczos begins, so that it needs few products over all examples."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from jaxsharp.core.chunks import num_examples
from jaxsharp.core.streaming import rows
from jaxsharp.curvature.lanczos import eigenpairs_at

# Eigenvectors of a sample whose sum is a start.
SEVERAL = 4


def sampled(batch: PyTree, share: float, key: Array) -> tuple[PyTree, float]:
    """A share of the examples, at least one, drawn without repetition; and the share that it is."""
    n = num_examples(batch)
    size = max(1, round(share * n))
    chosen = jnp.sort(jax.random.choice(key, n, (size,), replace=False))
    return rows(batch, chosen), size / n


def common_start(
    matvec: Callable, like: PyTree, key: Array, *, tol: float, max_products: int
) -> tuple[PyTree, Int[Array, ""]]:
    """Sum of the top SEVERAL eigenvectors of an operator, and the products that found them.

    Of several, as the largest of a sample need not be that of all examples.
    """
    count = min(SEVERAL, optax.tree.size(like))
    pairs, _ = eigenpairs_at(matvec, like, (count, 0), key, tol, max(max_products, count + 1))
    return jax.tree.map(lambda vectors: vectors.sum(0), pairs.vectors), pairs.num_products
