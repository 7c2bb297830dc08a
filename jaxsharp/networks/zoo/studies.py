"""The networks of the two studies.

| name | network |
|---|---|
| mlp_1 | MLP_1 of study B: 512, 256, 128, then BatchNorm without scale and shift on the logits |
| mlp, lenet | the two networks of Ibayashi et al. 2021 (arXiv 2106.12612) |
| simple_batch, middle_batch, complex_batch | CNNs of study A, blocks conv -> ReLU -> BatchNorm |

Deviation from study A: the logits are returned as they are; the original put a log-softmax over
the *batch* axis in front of the cross-entropy.
"""

import itertools
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxsharp.networks import layers


def _pool_overlapping(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    return layers.max_pool(x, stride=1)


def mlp(hidden: Sequence[int], batch_norm: bool = False) -> Callable:
    """MLP with ReLU, of inputs of any shape; with ``batch_norm`` the logits are normalized."""

    def body(shape, num_classes, lowering, rngs):
        widths = (int(np.prod(shape)), *hidden)
        steps = [layers.flatten]
        for features_in, features in itertools.pairwise(widths):
            steps += [layers.dense(features_in, features, rngs), jax.nn.relu]
        steps.append(layers.dense(widths[-1], num_classes, rngs))
        if batch_norm:
            steps.append(layers.BatchNorm(num_classes, affine=False, rngs=rngs))
        return steps

    return body


def batch_cnn(blocks: Sequence[Sequence[int]], hidden: int, padding: str) -> Callable:
    """CNN of study A; ``blocks`` has the widths between two poolings."""

    def body(shape, num_classes, lowering, rngs):
        height, width, channels = shape
        shrink = 2 if padding == "VALID" else 0
        steps = []
        for block in blocks:
            for features in block:
                conv = layers.ConvReLU(
                    channels, features, 3, padding=padding, lowering=lowering, rngs=rngs
                )
                steps += [conv, layers.BatchNorm(features, rngs=rngs)]
                height, width, channels = height - shrink, width - shrink, features
            steps.append(layers.max_pool)
            height, width = height // 2, width // 2
        flat = height * width * channels
        head = [layers.dense(flat, hidden, rngs), jax.nn.relu]
        return [*steps, layers.flatten, *head, layers.dense(hidden, num_classes, rngs)]

    return body


def lenet(shape, num_classes, lowering, rngs):
    """LeNet of Ibayashi et al., for images of 15 x 15 pixels at least."""
    height, width, channels = shape
    flat = ((height - 5) // 2 - 4) * ((width - 5) // 2 - 4) * 120

    def conv(features_in, features, padding):
        return layers.ConvReLU(
            features_in, features, 5, padding=padding, lowering=lowering, rngs=rngs
        )

    return [
        *(conv(channels, 6, "SAME"), _pool_overlapping),
        *(conv(6, 16, "VALID"), layers.max_pool),
        *(conv(16, 120, "VALID"), layers.flatten),
        *(layers.dense(flat, 84, rngs), jax.nn.relu, layers.dense(84, num_classes, rngs)),
    ]
