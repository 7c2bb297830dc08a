"""VGG with BatchNorm for small images."""

from collections.abc import Callable, Sequence

import jax

from jaxsharp.networks import layers


def vgg(stages: Sequence[Sequence[int]]) -> Callable:
    """Convolutions of 3 x 3 with bias, BatchNorm, ReLU, a maximum of 2 x 2 after each stage.

    ((64,), (128,), (256, 256), (512, 512), (512, 512)) is VGG-11, configuration A of Simonyan and
    Zisserman 2015 (arXiv 1409.1556, table 1), with BatchNorm before each ReLU and, instead of three
    dense layers, one on the 512 numbers that are left of an image of 32 x 32, as is usual for
    CIFAR-10.
    """

    def body(shape, num_outputs, lowering, rngs):
        height, width, features_in = shape
        steps = []
        for stage in stages:
            for features in stage:
                options = {"bias": True, "lowering": lowering, "rngs": rngs}
                steps.append(layers.Conv(features_in, features, 3, **options))
                steps += [layers.BatchNorm(features, rngs=rngs), jax.nn.relu]
                features_in = features
            steps.append(layers.max_pool)
            height, width = height // 2, width // 2
        flat = height * width * features_in
        return [*steps, layers.flatten, layers.dense(flat, num_outputs, rngs)]

    return body
