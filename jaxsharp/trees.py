"""The few pytree vector operations that `optax.tree` lacks; a pytree counts as one long vector."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, PyTree, ScalarLike, UInt32

Vector = PyTree[Float[Array, "..."]]


def widen(tree: Vector) -> Vector:
    """Return the tree with bfloat16 and float16 leaves as float32, wider leaves unchanged."""
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.promote_types(jnp.result_type(leaf), jnp.float32)), tree
    )


def scaled_to_norm(tree: Vector, norm: ScalarLike) -> Vector:
    """Return norm * x / ||x||_2 over the whole tree, leaf dtypes kept.

    A zero tree, and one with an infinite or NaN entry, has no direction and gives zeros. Entries
    are divided by the largest one first, so that squares neither overflow nor vanish. Derivatives
    are finite everywhere and zero where the tree has no direction.
    """
    # At least float32, and so is all that is divided by it.
    largest = jax.tree.reduce(
        jnp.maximum, jax.tree.map(lambda x: jnp.max(jnp.abs(x), initial=0.0), tree), jnp.float32(0)
    )
    has_direction = (largest > 0) & (largest < jnp.inf)
    # The result does not depend on this divisor, so neither does its derivative. XLA multiplies
    # by the reciprocal, which is flushed to zero for the very largest numbers.
    divisor = jnp.minimum(largest, jnp.finfo(largest.dtype).max / 16)
    divisor = jax.lax.stop_gradient(jnp.where(has_direction, divisor, 1.0))
    moderate = jax.tree.map(lambda x: jnp.where(has_direction, x / divisor, 0.0), tree)
    length = jnp.sqrt(jnp.where(has_direction, optax.tree.norm(moderate, squared=True), 1.0))
    scaled = jax.tree.map(lambda x: norm * (x / length), moderate)
    return optax.tree.cast_like(scaled, tree)


def random_direction(key: Key[Array, ""] | UInt32[Array, "2"], tree: Vector) -> Vector:
    """Return a vector like the tree, uniform on the unit sphere over all of its entries.

    Every leaf draws from a key of its own.
    """
    direction = scaled_to_norm(optax.tree.random_like(key, widen(tree)), 1.0)
    return optax.tree.cast_like(direction, tree)
