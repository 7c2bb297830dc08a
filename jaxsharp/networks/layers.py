"""The layers that the networks need and flax lacks: convolution, pooling, batch statistics.

A convolution has three lowerings that agree to rounding: ``lax.conv``, shifted slices times a
matrix, and, for training on the CPU, a few examples at a time (`tiles`). XLA on the CPU runs
``lax.conv`` an order of magnitude slower inside a scan than outside of it, and a convolution that
is vmapped over its kernels becomes a slow grouped convolution on every platform; the matrix forms
have neither defect.
"""

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxsharp.core.trees import widen
from jaxsharp.networks import tiles

Lowering = Literal["auto", "patches", "tiles", "conv"]


def torch_uniform(fan_in: int) -> Callable:
    """Initializer U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for weights and biases."""
    bound = fan_in**-0.5

    def init(key, shape, dtype=jnp.float32, **_):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def pad_same(x: Float[Array, "n h w c"], height: int, width: int) -> Float[Array, "n h2 w2 c"]:
    """Pad with zeros so that a stride-1 convolution keeps the height and width."""
    top, left = (height - 1) // 2, (width - 1) // 2
    return jnp.pad(x, ((0, 0), (top, height - 1 - top), (left, width - 1 - left), (0, 0)))


def conv_patches(
    x: Float[Array, "n h w c"], kernel: Float[Array, "kh kw c k"], stride: int = 1
) -> Float[Array, "n h2 w2 k"]:
    """VALID convolution as kh*kw shifted slices times a (kh*kw*c, k) matrix."""
    kh, kw, _, features = kernel.shape
    return tiles.windows(x, kh, kw, stride) @ kernel.reshape(-1, features)


def conv_native(
    x: Float[Array, "n h w c"], kernel: Float[Array, "kh kw c k"], stride: int = 1
) -> Float[Array, "n h2 w2 k"]:
    """VALID convolution by ``lax.conv_general_dilated``."""
    dtype = jnp.result_type(x, kernel)  # promoted as by a product of matrices
    return jax.lax.conv_general_dilated(
        *(x.astype(dtype), kernel.astype(dtype), (stride, stride), "VALID"),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def standard(lowering: Lowering) -> Callable:
    """`conv_patches` or `conv_native`; ``auto`` is the former on the CPU, the latter elsewhere."""
    on_cpu = jax.default_backend() == "cpu"
    return conv_patches if lowering == "patches" or (lowering == "auto" and on_cpu) else conv_native


def max_pool(x: Float[Array, "n h w c"], stride: int = 2) -> Float[Array, "n h2 w2 c"]:
    """Maximum over 2 x 2 windows, VALID: height floor((h - 2)/stride) + 1."""
    height, width = x.shape[1] - 1, x.shape[2] - 1
    corners = [
        x[:, i : i + height : stride, j : j + width : stride] for i in (0, 1) for j in (0, 1)
    ]
    return functools.reduce(jnp.maximum, corners)


def flatten(x: Float[Array, "n ..."]) -> Float[Array, "n d"]:
    """The numbers of each example in a row."""
    return x.reshape(x.shape[0], -1)


class ConvReLU(nnx.Module):
    """Stride-1 convolution with bias, then ReLU."""

    def __init__(self, features_in, features, size, *, padding, lowering: Lowering, rngs):
        init = torch_uniform(features_in * size * size)
        self.kernel = nnx.Param(init(rngs.params(), (size, size, features_in, features)))
        self.bias = nnx.Param(init(rngs.params(), (features,)))
        self.padding = padding
        self.lowering = lowering

    def __call__(self, x):
        kernel, bias = self.kernel[...], self.bias[...]
        if self.padding == "SAME":
            x = pad_same(x, kernel.shape[0], kernel.shape[1])
        if self.lowering == "tiles":
            return tiles.conv_relu(x, kernel, bias)
        return jax.nn.relu(standard(self.lowering)(x, kernel) + bias[None, None, None])


class Conv(nnx.Module):
    """Convolution of every ``stride``-th pixel, zeros beyond the edges; for BatchNorm behind it.

    (size - 1)/2 zeros on each side, as in PyTorch's networks: ceil(height/stride) rows are left.
    Kernels are drawn with variance 2/fan_in (He et al. 2015, arXiv 1502.01852, equation 10), from a
    normal distribution that is cut at two deviations.
    """

    def __init__(
        self, features_in, features, size, *, stride=1, bias=False, lowering: Lowering, rngs
    ):
        shape = (size, size, features_in, features)
        self.kernel = nnx.Param(nnx.initializers.he_normal()(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(features, jnp.float32)) if bias else None
        self.stride = stride
        self.lowering = lowering

    def __call__(self, x):
        kernel = self.kernel[...]
        bias = None if self.bias is None else self.bias[...]
        x = pad_same(x, kernel.shape[0], kernel.shape[1])
        if self.lowering == "tiles":
            return tiles.conv(x, kernel, bias, stride=self.stride)
        y = standard(self.lowering)(x, kernel, self.stride)
        return y if bias is None else y + bias[None, None, None]


def dense(features_in: int, features: int, rngs) -> nnx.Linear:
    """Affine layer with PyTorch's default initialization of weights and biases."""
    init = torch_uniform(features_in)
    return nnx.Linear(features_in, features, kernel_init=init, bias_init=init, rngs=rngs)


class BatchNorm(nnx.BatchNorm):
    """BatchNorm with PyTorch's momentum 0.1 and eps 1e-5 (flax writes the former as 0.9).

    The running variance averages the biased batch variance; PyTorch's averages the unbiased one.
    """

    def __init__(self, features, *, affine=True, rngs):
        super().__init__(
            features, momentum=0.9, epsilon=1e-5, use_scale=affine, use_bias=affine, rngs=rngs
        )


class Moments(nnx.BatchNorm):
    """A BatchNorm that normalizes by its running statistics, and then overwrites them.

    By moments of its input x about its ``center`` c: ``mean`` by E[x - c], ``var`` by E[(x - c)^2],
    in at least float32. Both are means over examples, so that chunks of a data set average to the
    whole. No layer is built as one: `modules.from_nnx` makes a BatchNorm one.
    """

    def __call__(self, x, use_running_average=None, *, mask=None):
        if mask is not None or self.collected:
            what = "has a mask" if mask is not None else "is applied twice"
            raise ValueError(f"statistics cannot be recomputed: a BatchNorm layer {what}")
        self.collected = True
        normalized = super().__call__(x, use_running_average=True)
        own = {axis % x.ndim for axis in np.atleast_1d(self.axis).tolist()}
        axes = tuple(axis for axis in range(x.ndim) if axis not in own)
        centered = widen(x) - jnp.expand_dims(self.center[...], axes)
        self.mean[...] = centered.mean(axes).astype(self.mean.dtype)
        self.var[...] = jnp.square(centered).mean(axes).astype(self.var.dtype)
        return normalized
