"""Convolutions for training on a core of its own: a few examples at a time, in its cache.

A convolution is y = G[S(x) W]: S spreads the image into rows, W is the kernel as matrices, and G
gathers the products into an image; S and G are linear and have no parameters. For `patches` S
copies every window; for `winograd`, 3 x 3 kernels of stride 1 alone, S and G are the transforms of
F(2 x 2, 3 x 3) of Lavin and Gray 2016 (arXiv 1509.09308, equation 8), which take 16 products where
the windows take 36. What S writes is made again for the gradient instead of kept: only x and y go
to memory.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxsharp.core.trees import widen

# What S may write of a few examples: the transforms of study A's networks are fastest with it.
TILE_BYTES = 2**21
# With fewer channels the transforms cost more than the products that they spare.
LEAST_CHANNELS = 8


class Algorithm(NamedTuple):
    """``weights(kernel)`` -> W (s, r, k); ``spread(x)`` -> S(x) (s, p, r); ``gather(m)`` -> y."""

    weights: Callable
    spread: Callable
    gather: Callable


def conv_relu(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "kh kw c k"],
    bias: Float[Array, " k"],
) -> Float[Array, "n h2 w2 k"]:
    """max(0, VALID stride-1 convolution + bias), for reverse mode and one derivative."""
    return _tiled(True, x, kernel, bias, 1)


def conv(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "kh kw c k"],
    bias: Float[Array, " k"] | None = None,
    *,
    stride: int = 1,
) -> Float[Array, "n h2 w2 k"]:
    """VALID convolution, bias added where there is one, for reverse mode and one derivative."""
    return _tiled(False, x, kernel, bias, stride)


def _tiled(rectified, x, kernel, bias, stride):
    """A convolution by the algorithm that its shapes are fastest with."""
    dtype = jnp.result_type(*jax.tree.leaves((x, kernel, bias)))
    x, kernel, bias = jax.tree.map(lambda a: a.astype(dtype), (x, kernel, bias))
    # In less than float32 the differences that the transforms take would lose digits.
    few = kernel.shape[2] < LEAST_CHANNELS or dtype.itemsize < 4
    if stride > 1 or kernel.shape[:2] != (3, 3) or few:
        return _conv(partial(patches, stride=stride), rectified, x, kernel, bias)
    height, width = x.shape[1] - 2, x.shape[2] - 2
    even = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    return _conv(winograd, rectified, even, kernel, bias)[:, :height, :width]


def windows(
    x: Float[Array, "n h w c"], height: int, width: int, stride: int = 1
) -> Float[Array, "n h2 w2 r"]:
    """The windows of a VALID convolution, each as a row of height*width*c numbers."""
    rows, columns = x.shape[1] - height + 1, x.shape[2] - width + 1
    shifted = [
        x[:, i : i + rows : stride, j : j + columns : stride]
        for i in range(height)
        for j in range(width)
    ]
    return jnp.concatenate(shifted, axis=-1)


def patches(shape: tuple, kernel_shape: tuple, stride: int = 1) -> Algorithm:
    """One matrix; the rows are windows."""
    (n, h, w, _), (kh, kw, _, features) = shape, kernel_shape
    return Algorithm(
        lambda kernel: kernel.reshape(1, -1, features),
        lambda x: windows(x, kh, kw, stride).reshape(1, -1, x.shape[-1] * kh * kw),
        lambda m: m.reshape(n, (h - kh) // stride + 1, (w - kw) // stride + 1, features),
    )


def winograd(shape: tuple, kernel_shape: tuple) -> Algorithm:
    """16 matrices; a row has the channels of one of 16 combinations of a window of 4 x 4 pixels."""
    (n, h, w, c), features = shape, kernel_shape[-1]
    p, q = h // 2 - 1, w // 2 - 1

    def weights(kernel):
        both = _kernel_transform(_kernel_transform(kernel).swapaxes(0, 1))
        return both.reshape(16, c, features)

    def spread(x):
        return _input_transform(_input_transform(x, 1), 3).reshape(16, -1, c)

    def gather(m):
        rows = _output_transform(m.reshape(4, 4, n, p, q, features))
        both = _output_transform(rows.swapaxes(0, 1))
        return both.transpose(2, 3, 0, 4, 1, 5).reshape(n, 2 * p, 2 * q, features)

    return Algorithm(weights, spread, gather)


def _kernel_transform(g):
    """G g along the first axis."""
    even, odd = (g[0] + g[2]) / 2, g[1] / 2
    return jnp.stack([g[0], even + odd, even - odd, g[2]])


def _input_transform(x, axis):
    """B^T d, as a new first axis, of the windows of four at every other pixel along ``axis``."""
    last = x.shape[axis] - 3
    d0, d1, d2, d3 = (jax.lax.slice_in_dim(x, i, last + i, 2, axis) for i in range(4))
    return jnp.stack([d0 - d2, d1 + d2, d2 - d1, d1 - d3])


def _output_transform(m):
    """A^T m along the first axis; transposed, a split is a concatenation."""
    m0, m1, m2, m3 = jax.lax.split(m, (1, 1, 1, 1))
    return jnp.concatenate([m0 + m1 + m2, m1 - m2 - m3])


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _conv(make, rectified, x, kernel, bias):
    algorithm, split = _tiling(make, x, kernel)
    weights = algorithm.weights(kernel)

    def one(tile):
        y = algorithm.gather(algorithm.spread(tile) @ weights)
        y = y if bias is None else y + bias
        return jax.nn.relu(y) if rectified else y

    y = jax.lax.map(one, split(x))
    return y.reshape(len(x), *y.shape[2:])


def _forward(make, rectified, x, kernel, bias):
    y = _conv(make, rectified, x, kernel, bias)
    return y, (x, kernel, bias, y if rectified else None)


def _backward(make, rectified, saved, g):
    x, kernel, bias, y = saved
    algorithm, split = _tiling(make, x, kernel)
    weights, to_kernel = jax.vjp(algorithm.weights, kernel)

    def one(sums, tile):
        x, y, g = tile
        g = jnp.where(y > 0, g, 0) if rectified else g
        rows, spread_back = jax.vjp(algorithm.spread, x)
        m = jax.ShapeDtypeStruct((*rows.shape[:2], weights.shape[2]), x.dtype)
        (m,) = jax.linear_transpose(algorithm.gather, m)(g)
        own = rows.swapaxes(1, 2) @ m, None if bias is None else g.sum((0, 1, 2))
        return jax.tree.map(jnp.add, sums, own), spread_back(m @ weights.swapaxes(1, 2))[0]

    zeros = widen(jax.tree.map(jnp.zeros_like, (weights, bias)))
    sums, dx = jax.lax.scan(one, zeros, jax.tree.map(split, (x, y, g)))
    d_weights, d_bias = jax.tree.map(lambda a: a.astype(x.dtype), sums)
    return dx.reshape(x.shape), *to_kernel(d_weights), d_bias


_conv.defvjp(_forward, _backward)


def _tiling(make, x, kernel):
    """The algorithm for a tile, and what splits examples into tiles: a divisor of their number."""
    rows = jax.eval_shape(make(x.shape, kernel.shape).spread, x)
    weights = jax.eval_shape(make(x.shape, kernel.shape).weights, kernel)
    written = rows.size + rows.shape[0] * rows.shape[1] * weights.shape[2]
    most = max(1, TILE_BYTES * len(x) // (written * x.dtype.itemsize))
    size = max(d for d in range(1, min(len(x), most) + 1) if len(x) % d == 0)
    algorithm = make((size, *x.shape[1:]), kernel.shape)
    return algorithm, lambda a: a.reshape(len(a) // size, size, *a.shape[1:])
