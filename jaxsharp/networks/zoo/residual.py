"""Residual networks for small images: a 3 x 3 convolution, stages of blocks, the mean, one layer.

The first block of each stage but the first halves height and width, and rounds up, so that images
of any size are taken.
"""

import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxsharp.networks import layers


def mean_pool(x: Float[Array, "n h w c"]) -> Float[Array, "n c"]:
    """Mean over the pixels."""
    return x.mean((1, 2))


def subsampled(x: Float[Array, "n h w c"], features: int, stride: int) -> Float[Array, "n h2 w2 k"]:
    """The shortcut without parameters, option A: every stride-th pixel, channels of zeros added."""
    x = x[:, ::stride, ::stride]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, features - x.shape[3])))


class Block(nnx.Module):
    """ReLU of conv, BatchNorm, ReLU, conv, BatchNorm and a shortcut (He et al. 2016, figure 2).

    Where the shape changes the shortcut is `subsampled`, or a ``projection``: a 1 x 1 convolution
    and BatchNorm.
    """

    def __init__(self, features_in, features, *, stride, projection, lowering, rngs):
        options = {"lowering": lowering, "rngs": rngs}
        self.conv1 = layers.Conv(features_in, features, 3, stride=stride, **options)
        self.norm1 = layers.BatchNorm(features, rngs=rngs)
        self.conv2 = layers.Conv(features, features, 3, **options)
        self.norm2 = layers.BatchNorm(features, rngs=rngs)
        self.projects = projection and (stride, features_in) != (1, features)
        if self.projects:
            self.conv3 = layers.Conv(features_in, features, 1, stride=stride, **options)
            self.norm3 = layers.BatchNorm(features, rngs=rngs)
        self.features, self.stride = features, stride

    def __call__(self, x):
        y = self.norm2(self.conv2(jax.nn.relu(self.norm1(self.conv1(x)))))
        if self.projects:
            shortcut = self.norm3(self.conv3(x))
        else:
            shortcut = subsampled(x, self.features, self.stride)
        return jax.nn.relu(y + shortcut)


class WideBlock(nnx.Module):
    """BatchNorm, ReLU and conv twice, plus a shortcut (Zagoruyko and Komodakis 2016, figure 1c).

    Where the shape changes the shortcut is a 1 x 1 convolution of the first ReLU, as in the
    authors' code.
    """

    def __init__(self, features_in, features, *, stride, lowering, rngs):
        options = {"lowering": lowering, "rngs": rngs}
        self.norm1 = layers.BatchNorm(features_in, rngs=rngs)
        self.conv1 = layers.Conv(features_in, features, 3, stride=stride, **options)
        self.norm2 = layers.BatchNorm(features, rngs=rngs)
        self.conv2 = layers.Conv(features, features, 3, **options)
        self.projects = (stride, features_in) != (1, features)
        if self.projects:
            self.conv3 = layers.Conv(features_in, features, 1, stride=stride, **options)

    def __call__(self, x):
        active = jax.nn.relu(self.norm1(x))
        y = self.conv2(jax.nn.relu(self.norm2(self.conv1(active))))
        return y + (self.conv3(active) if self.projects else x)


def resnet(widths: Sequence[int], blocks: int, *, projection: bool = False) -> Callable:
    """ResNet of stages with ``blocks`` blocks of ``widths`` channels (arXiv 1512.03385).

    (16, 32, 64) and 3 are the ResNet-20 of section 4.2, whose shortcuts have no parameters;
    (64, 128, 256, 512) and 2 with projections are ResNet-18, its first convolution 3 x 3 of stride
    1 and no pooling behind it.
    """

    def body(shape, num_outputs, lowering, rngs):
        options = {"lowering": lowering, "rngs": rngs}
        steps = [layers.Conv(shape[2], widths[0], 3, **options)]
        steps += [layers.BatchNorm(widths[0], rngs=rngs), jax.nn.relu]
        steps += [
            Block(features_in, features, stride=stride, projection=projection, **options)
            for features_in, features, stride in stages((widths[0], *widths), blocks)
        ]
        return [*steps, mean_pool, layers.dense(widths[-1], num_outputs, rngs)]

    return body


def wide_resnet(
    width: int, blocks: int, *, stem: int = 16, widths: Sequence[int] = (16, 32, 64)
) -> Callable:
    """WideResNet (arXiv 1605.07146, table 1): ``widths`` times ``width`` channels in its stages.

    Its depth is 6 ``blocks`` + 4 with three stages: 4 and 2 are WRN-16-4. No dropout.
    """

    def body(shape, num_outputs, lowering, rngs):
        options = {"lowering": lowering, "rngs": rngs}
        steps = [layers.Conv(shape[2], stem, 3, **options)]
        wide = (stem, *(width * features for features in widths))
        steps += [
            WideBlock(features_in, features, stride=stride, **options)
            for features_in, features, stride in stages(wide, blocks)
        ]
        steps += [layers.BatchNorm(wide[-1], rngs=rngs), jax.nn.relu]
        return [*steps, mean_pool, layers.dense(wide[-1], num_outputs, rngs)]

    return body


def stages(widths: Sequence[int], blocks: int) -> list[tuple[int, int, int]]:
    """(channels in, channels out, stride) of each block; the first width is what comes in."""
    found = []
    for i, (features_in, features) in enumerate(itertools.pairwise(widths)):
        found.append((features_in, features, 1 if i == 0 else 2))
        found += [(features, features, 1)] * (blocks - 1)
    return found
