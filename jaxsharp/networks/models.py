"""Networks of the two studies as pure functions.

Every network maps uint8 images to logits, the normalization of the pixels being its first step.

| name | network |
|---|---|
| small_mlp | 64, 64, 32 hidden units; for the digits |
| mlp_1 | MLP_1 of study B: 512, 256, 128, then BatchNorm without scale and shift on the logits |
| mlp, lenet | the two networks of Ibayashi et al. 2021 (arXiv 2106.12612) |
| simple_batch, middle_batch, complex_batch | CNNs of study A, blocks conv -> ReLU -> BatchNorm |

Deviation from study A: the logits are returned as they are; the original put a log-softmax over
the *batch* axis in front of the cross-entropy.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxsharp.networks import layers
from jaxsharp.networks.modules import from_nnx
from jaxsharp.networks.network import Network


class Normalize(nnx.Module):
    """Pixels scaled to [0, 1], then (x - mean)/std per channel."""

    def __init__(self, max_pixel, mean=(0.0,), std=(1.0,)):
        self.max_pixel = max_pixel
        self.mean = tuple(float(m) for m in mean)
        self.std = tuple(float(s) for s in std)

    def __call__(self, x):
        mean, std = (jnp.asarray(v, x.dtype) for v in (self.mean, self.std))
        return (x / self.max_pixel - mean) / std


class Chain(nnx.Module):
    """Layers applied in order; those with parameters are named kind and number, as in conv2."""

    def __init__(self, *steps):
        names = []
        for step in steps:
            kind = {layers.ConvReLU: "conv", layers.BatchNorm: "norm", nnx.Linear: "dense"}.get(
                type(step), "step"
            )
            name = f"{kind}{1 + sum(kind == n.rstrip('0123456789') for n in names)}"
            setattr(self, name, step)
            names.append(name)
        self.names = tuple(names)

    def __call__(self, x):
        for name in self.names:
            x = getattr(self, name)(x)
        return x


def _flatten(x: Float[Array, "n ..."]) -> Float[Array, "n d"]:
    return x.reshape(x.shape[0], -1)


def _pool_overlapping(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    return layers.max_pool(x, stride=1)


def _mlp(hidden, batch_norm=False):
    """Return body(shape, num_classes, lowering, rngs) of an MLP with ReLU."""

    def body(shape, num_classes, lowering, rngs):
        widths = (int(np.prod(shape)), *hidden)
        steps = [_flatten]
        for features_in, features in itertools.pairwise(widths):
            steps += [layers.dense(features_in, features, rngs), jax.nn.relu]
        steps.append(layers.dense(widths[-1], num_classes, rngs))
        if batch_norm:
            steps.append(layers.BatchNorm(num_classes, affine=False, rngs=rngs))
        return steps

    return body


def _batch_cnn(blocks, hidden, padding):
    """Return body(...) of a CNN of study A; ``blocks`` has the widths between two poolings."""

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
        return [*steps, _flatten, *head, layers.dense(hidden, num_classes, rngs)]

    return body


def _lenet(shape, num_classes, lowering, rngs):
    height, width, channels = shape
    flat = ((height - 5) // 2 - 4) * ((width - 5) // 2 - 4) * 120

    def conv(features_in, features, padding):
        return layers.ConvReLU(
            features_in, features, 5, padding=padding, lowering=lowering, rngs=rngs
        )

    return [
        *(conv(channels, 6, "SAME"), _pool_overlapping),
        *(conv(6, 16, "VALID"), layers.max_pool),
        *(conv(16, 120, "VALID"), _flatten),
        *(layers.dense(flat, 84, rngs), jax.nn.relu, layers.dense(84, num_classes, rngs)),
    ]


class ModelSpec(NamedTuple):
    """One line of ``jaxsharp list``, the layers, and whether channels are standardized.

    ``least`` is the smallest height and width of images.
    """

    description: str
    body: Callable
    standardize: bool = False
    least: int = 1


MODELS: dict[str, ModelSpec] = {
    "small_mlp": ModelSpec("MLP with 64, 64, 32 hidden units, for the digits", _mlp((64, 64, 32))),
    "mlp_1": ModelSpec(
        "MLP_1 of study B: 512, 256, 128 hidden units, BatchNorm on the logits",
        _mlp((512, 256, 128), batch_norm=True),
        standardize=True,
    ),
    "mlp": ModelSpec("MLP of Ibayashi et al.: 512, 128, 512 hidden units", _mlp((512, 128, 512))),
    "lenet": ModelSpec("LeNet of Ibayashi et al.", _lenet, least=15),
    "simple_batch": ModelSpec(
        "CNN of study A: 4 convolutions, BatchNorm",
        _batch_cnn(((16, 32), (64, 128)), 128, "VALID"),
        least=16,
    ),
    "middle_batch": ModelSpec(
        "CNN of study A: 6 convolutions, BatchNorm",
        _batch_cnn(((16, 32), (64, 128), (256, 512)), 512, "SAME"),
        least=8,
    ),
    "complex_batch": ModelSpec(
        "CNN of study A: 9 convolutions, BatchNorm",
        _batch_cnn(((16, 32, 32), (64, 128, 128), (256, 512, 512)), 512, "SAME"),
        least=8,
    ),
}


FLAT = ("mlp", "mlp_1")  # how names end of networks that take inputs of any shape


def channel_moments(images: np.ndarray, max_pixel: int) -> tuple[tuple[float, ...], ...]:
    """Mean and standard deviation per channel (the last axis) in float64, of pixels in [0, 1]."""
    if images.dtype != np.uint8:
        rows = images.reshape(-1, images.shape[-1]).astype(np.float64)
        stds = rows.std(0)
        return tuple(rows.mean(0).tolist()), tuple(np.where(stds > 0, stds, 1.0).tolist())
    levels = np.arange(max_pixel + 1) / max_pixel
    means, stds = [], []
    for channel in range(images.shape[-1]):
        counts = np.bincount(images[..., channel].ravel(), minlength=max_pixel + 1)
        mean = np.average(levels, weights=counts)
        means.append(float(mean))
        stds.append(float(np.sqrt(np.average((levels - mean) ** 2, weights=counts))) or 1.0)
    return tuple(means), tuple(stds)


def load(name: str, dataset, *, lowering: layers.Lowering = "auto") -> Network:
    """The network of ``MODELS[name]`` for the inputs and the outputs of a data set.

    ``dataset`` is a ``data.Dataset``; channel means and deviations, where the model wants them and
    for inputs that are no pixels, are those of its training inputs. Raises ValueError for inputs
    the network cannot take.
    """
    spec = MODELS[name]
    images, shape = dataset.train.images, dataset.train.images.shape[1:]
    if images.dtype == np.int32:
        raise ValueError(
            f"{name} takes images or real numbers; the inputs of {dataset.name} are integers"
        )
    if len(shape) != 3 and not name.endswith(FLAT):
        valid = ", ".join(each for each in MODELS if each.endswith(FLAT))
        raise ValueError(
            f"{name} takes images; an input of {dataset.name} has shape {shape}, for which valid "
            f"are {valid}"
        )
    if spec.least > 1 and min(shape[:2]) < spec.least:
        raise ValueError(
            f"images of shape {shape} are too small for {name} "
            f"({spec.least} x {spec.least} at least)"
        )
    pixels = images.dtype == np.uint8
    wanted = spec.standardize or not pixels
    moments = channel_moments(images, dataset.max_pixel) if wanted else ()
    first = Normalize(dataset.max_pixel if pixels else 1, *moments)

    def build(rngs):
        return Chain(first, *spec.body(shape, dataset.num_outputs, lowering, rngs))

    return from_nnx(build)
