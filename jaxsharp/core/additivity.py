"""Whether a loss is a mean over examples, so that data may be cut into chunks.

    m f(whole) = a f(first a examples) + b f(the other b),    m = a + b,    and so its gradient

holds for means over examples alone, a regularizer that is added once included; not for sums, for
means over unmasked tokens, for batch statistics, nor for contrastive losses.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from jaxsharp.core.choices import counted
from jaxsharp.core.chunks import num_examples
from jaxsharp.core.fingerprints import of_known_program
from jaxsharp.core.memory import Budget, affordable_chunk, budget
from jaxsharp.core.programs import compiled, constants, own_settings
from jaxsharp.core.streaming import each, is_streamed, shapes
from jaxsharp.core.trees import abstract, merge, norm, select

# Each is evaluated three times, less than two passes over a thousand; again where that is in doubt.
MOST_EXAMPLES = 600
# What rounding may add up to, relative to what changing the last bits of the parameters does.
ROUNDING = 64.0
# In doubt the parameters are scaled by these: outputs of a well-trained network, of which little
# but rounding is left in the gradient, so come away from where the loss is flat.
ELSEWHERE = (0.5, 0.1)
ADVICE = "give one loss per example and weights=, or take all data at once with chunk_size='whole'"


class Comparison(NamedTuple):
    """Of each piece and each mean: how the parts agree with the whole."""

    whole: Float[Array, "..."]
    parts: Float[Array, "..."]
    gradients_apart: Float[Array, "..."]
    equal: Bool[Array, "..."]


class Additivity(NamedTuple):
    """The check that `means(params, (examples, places))`, a tuple of scalars, are additive.

    Compared on at most MOST_EXAMPLES examples from all over the data, in pieces that the memory
    holds, each with its first third and the rest, in values and in gradients. Rounding is allowed
    for by what the same piece gives at parameters whose last bits were changed, and by eps relative
    to the parts. Gradients of a well-trained network are smaller than what rounding leaves of
    softmax(f) - 1, eps whatever the loss; so pieces that differ are compared again with all
    parameters scaled by ELSEWHERE, and a mean is equal there.
    """

    means: Callable
    params: PyTree
    mask: PyTree

    @own_settings()
    def __call__(self, batch: PyTree, memory: Budget | None = None) -> bool | Bool[Array, ""]:
        """Return True, or for traced values whether it is so; raise ValueError if it is not."""
        n = num_examples(batch)
        if n < 2:
            return True
        rows = spread(n, MOST_EXAMPLES)
        if _holds_tracers(self.means, self.params, (batch, np.arange(n))):
            return jnp.all(self._compare(rows, batch, memory or budget()).equal)
        with jax.ensure_compile_time_eval():
            found = self._compare(rows, batch, memory or budget())
            found = Comparison(*(np.asarray(leaf) for leaf in found))
        if not found.equal.all():
            piece, mean = np.argwhere(~found.equal)[0]
            whole, parts = found.whole[piece, mean], found.parts[piece, mean]
            raise ValueError(
                f"loss is no mean over examples: on some of them it is {whole:.7g}, the weighted "
                f"mean of its two parts {parts:.7g}, gradients "
                f"{found.gradients_apart[piece, mean]:.3g} apart; {ADVICE}"
            )
        return True

    def _compare(self, rows, batch, memory) -> Comparison:
        point = select(self.params, self.mask)
        take = jax.jit(lambda leaf: leaf[rows])
        direct = lambda a: isinstance(a, np.ndarray) or is_streamed(a)  # noqa: E731
        sample = each(lambda a: a[rows] if direct(a) else take(a), batch)
        sample = sample, rows
        gradients = partial(_values_and_gradients, self.means, self.params)
        room = affordable_chunk(lambda part: gradients(point, part), sample, memory) or len(rows)
        size = min(len(rows), max(room, 2))
        count = len(rows) // size
        _check_parts(self.means, self.params, sample, size)

        def compared(params, point, sample):
            pieces = jax.tree.map(
                lambda a: a[: count * size].reshape(count, size, *a.shape[1:]), sample
            )

            def at(factor):
                scaled_params, scaled = _scaled((params, point), factor)
                values = partial(_values_and_gradients, self.means, scaled_params)
                return jax.lax.map(partial(_compare_parts, values, scaled), pieces)

            return _in_doubt_elsewhere(at)

        compared = compiled(compared, of_known_program(compared, self.params, point, sample))
        # What is not finite is unequal here, and said so in one line; debug_nans would end before.
        with jax.debug_nans(False):
            return compared(self.params, point, sample)


def spread(n: int, most: int) -> np.ndarray:
    """Return the places of at most so many of n examples, evenly spread."""
    count = min(n, most)
    return np.arange(count) * n // count


def _in_doubt_elsewhere(at: Callable) -> Comparison:
    """``at(1)``, where what is finite and unequal counts as equal if it is so elsewhere."""
    factors = jnp.array([1.0, *ELSEWHERE], jnp.float32)

    def step(state):
        i, here = state
        found = at(factors[i])
        equal = found.equal | here.equal
        equal &= jnp.isfinite(here.whole) | (i == 0)
        here = jax.tree.map(lambda a, b: jnp.where(i == 0, a, b), found, here)
        return i + 1, here._replace(equal=equal)

    nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(at, factors[0]))
    in_doubt = lambda state: (state[0] < len(factors)) & ~state[1].equal.all()  # noqa: E731
    return jax.lax.while_loop(in_doubt, step, (0, nothing))[1]


def _scaled(tree: PyTree, factor: Array) -> PyTree:
    """A tree whose real numbers are multiplied."""

    def scale(leaf):
        real = jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf * factor.astype(leaf.dtype) if real else leaf

    return jax.tree.map(scale, tree)


def _compare_parts(values, point, piece) -> Comparison:
    size = num_examples(piece)
    cut = max(1, size // 3)
    eps = jnp.finfo(jnp.result_type(*jax.tree.leaves(point))).eps

    def at_nearby(step):
        wave = lambda x: jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)  # noqa: E731
        return values(
            jax.tree.map(lambda x: x + x * (step.astype(x.dtype) * wave(x)), point), piece
        )

    both = jax.lax.map(at_nearby, jnp.array([0.0, 2 * eps]))
    whole, nearby = (jax.tree.map(lambda a, i=i: a[i], both) for i in range(2))
    first = values(point, jax.tree.map(lambda a: a[:cut], piece))
    rest = values(point, jax.tree.map(lambda a: a[cut:], piece))

    def mean(a, b):
        return jax.tree.map(lambda x, y: x * (cut / size) + y * (1 - cut / size), a, b)

    lengths = jax.vmap(norm)
    parts = mean(first, rest)
    difference, change = (
        jax.tree.map(lambda a, b: a - b, whole, other) for other in (parts, nearby)
    )
    moves = [
        lengths(jax.tree.map(lambda g, x: g * x[None], part[1], point)) for part in (first, rest)
    ]
    value_size = mean(jnp.abs(first[0]), jnp.abs(rest[0])) + mean(*moves)
    gradient_size = mean(lengths(first[1]), lengths(rest[1]))
    values_equal = jnp.abs(difference[0]) <= ROUNDING * (eps * value_size + jnp.abs(change[0]))
    apart = lengths(difference[1])
    gradients_equal = apart <= ROUNDING * (eps * gradient_size + lengths(change[1]))
    return Comparison(whole[0], parts[0], apart, values_equal & gradients_equal)


def _values_and_gradients(means, params, point, data):
    """Return the means and, along a new leading axis, their gradients."""
    values, pull = jax.vjp(lambda x: jnp.stack(means(merge(x, params), data)), point)
    (gradients,) = jax.vmap(pull)(jnp.eye(len(values), dtype=values.dtype))
    return values, gradients


def _check_parts(means, params, sample, size):
    """Raise ValueError, in one line, where a loss cannot be taken of some of the examples."""
    for part in {max(1, size // 3), size - max(1, size // 3), size}:
        few = jax.tree.map(lambda a, k=part: abstract(a, (k, *a.shape[1:])), sample)
        try:
            jax.eval_shape(means, params, few)
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(
                f"loss cannot be taken of {counted(part, 'example')} ({reason}); {ADVICE}"
            ) from error


def _holds_tracers(fn, *args):
    """Return whether arguments, or what the function closes over, are traced."""
    known = [*jax.tree.leaves(args), *constants(jax.make_jaxpr(fn)(*shapes(args)))]
    return any(isinstance(leaf, jax.core.Tracer) for leaf in known)
