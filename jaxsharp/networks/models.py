"""Networks by name as pure functions: those of the two studies, and a zoo of today's.

Every network maps uint8 images to logits, the normalization of the pixels being its first step; of
inputs that are tokens there is none.

| name | network |
|---|---|
| small_mlp | 64, 64, 32 hidden units; for the digits |
| mlp_1, mlp, lenet | those of two papers (`zoo.studies`) |
| simple_batch, middle_batch, complex_batch | CNNs of study A (`zoo.studies`) |
| resnet_20, resnet_18, wide_resnet_16_4 | residual networks for small images (`zoo.residual`) |
| vgg_11 | VGG-11 with BatchNorm for small images (`zoo.vgg`) |
| vit, gpt | a small vision transformer, a small GPT for characters (`zoo.transformers`) |
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsharp.data.arrays import blocks
from jaxsharp.data.parts import Dataset
from jaxsharp.networks import layers, zoo
from jaxsharp.networks.modules import from_nnx
from jaxsharp.networks.network import Network
from jaxsharp.networks.zoo import residual, transformers

# What layers are called in the names of parameters; others are steps.
KINDS = {
    layers.ConvReLU: "conv",
    layers.Conv: "conv",
    layers.BatchNorm: "norm",
    nnx.LayerNorm: "norm",
    nnx.Linear: "dense",
    residual.Block: "block",
    residual.WideBlock: "block",
    transformers.TransformerBlock: "block",
    transformers.Patches: "patches",
    transformers.Tokens: "tokens",
    transformers.Tied: "unembed",
}


class Normalize(nnx.Module):
    """Pixels scaled to [0, 1], then (x - mean)/std per channel."""

    def __init__(self, max_pixel, mean=(0.0,), std=(1.0,)):
        self.max_pixel = max_pixel
        self.mean = tuple(float(m) for m in mean)
        self.std = tuple(float(s) for s in std)

    def __call__(self, x):
        x = x / self.max_pixel
        axes = tuple(range(x.ndim - 1))
        mean, std = (jnp.expand_dims(jnp.asarray(v, x.dtype), axes) for v in (self.mean, self.std))
        return (x - mean) / std


class Chain(nnx.Module):
    """Layers applied in order; those with parameters are named kind and number, as in conv2."""

    def __init__(self, *steps):
        names = []
        for step in steps:
            kind = KINDS.get(type(step), "step")
            name = f"{kind}{1 + sum(kind == n.rstrip('0123456789') for n in names)}"
            setattr(self, name, step)
            names.append(name)
        self.names = tuple(names)

    def __call__(self, x):
        for name in self.names:
            x = getattr(self, name)(x)
        return x


class ModelSpec(NamedTuple):
    """One line of ``jaxsharp list``, the layers, whether channels are standardized, and its inputs.

    ``body(shape, num_outputs, lowering, rngs)`` returns the layers, applied in order behind the
    normalization. ``inputs`` are "images", "numbers" (of any shape, images too) or "tokens";
    ``least`` is the smallest height and width of images.
    """

    description: str
    body: Callable
    standardize: bool = False
    inputs: Literal["images", "numbers", "tokens"] = "images"
    least: int = 1


MODELS: dict[str, ModelSpec] = {
    "small_mlp": ModelSpec(
        "MLP with 64, 64, 32 hidden units, for the digits", zoo.mlp((64, 64, 32)), inputs="numbers"
    ),
    "mlp_1": ModelSpec(
        "MLP_1 of study B: 512, 256, 128 hidden units, BatchNorm on the logits",
        zoo.mlp((512, 256, 128), batch_norm=True),
        standardize=True,
        inputs="numbers",
    ),
    "mlp": ModelSpec(
        "MLP of Ibayashi et al.: 512, 128, 512 hidden units",
        zoo.mlp((512, 128, 512)),
        inputs="numbers",
    ),
    "lenet": ModelSpec("LeNet of Ibayashi et al.", zoo.lenet, least=15),
    "simple_batch": ModelSpec(
        "CNN of study A: 4 convolutions, BatchNorm",
        zoo.batch_cnn(((16, 32), (64, 128)), 128, "VALID"),
        least=16,
    ),
    "middle_batch": ModelSpec(
        "CNN of study A: 6 convolutions, BatchNorm",
        zoo.batch_cnn(((16, 32), (64, 128), (256, 512)), 512, "SAME"),
        least=8,
    ),
    "complex_batch": ModelSpec(
        "CNN of study A: 9 convolutions, BatchNorm",
        zoo.batch_cnn(((16, 32, 32), (64, 128, 128), (256, 512, 512)), 512, "SAME"),
        least=8,
    ),
    "resnet_20": ModelSpec(
        "ResNet-20 of He et al. for small images, shortcuts without parameters",
        zoo.resnet((16, 32, 64), 3),
        standardize=True,
    ),
    "resnet_18": ModelSpec(
        "ResNet-18 for small images: first convolution 3 x 3, no pooling",
        zoo.resnet((64, 128, 256, 512), 2, projection=True),
        standardize=True,
    ),
    "wide_resnet_16_4": ModelSpec(
        "WideResNet-16-4 of Zagoruyko and Komodakis", zoo.wide_resnet(4, 2), standardize=True
    ),
    "vgg_11": ModelSpec(
        "VGG-11 with BatchNorm for small images, one dense layer",
        zoo.vgg(((64,), (128,), (256, 256), (512, 512), (512, 512))),
        standardize=True,
        least=32,
    ),
    "vit": ModelSpec(
        "vision transformer of 6 blocks, 128 wide, patches of 4 x 4 pixels",
        zoo.vit(128, 6, 4),
        standardize=True,
        least=4,
    ),
    "gpt": ModelSpec(
        "GPT of 4 blocks, 128 wide, for texts: predicts each next character",
        zoo.gpt(128, 4, 4),
        inputs="tokens",
    ),
}


def channel_moments(images: np.ndarray, max_pixel: int) -> tuple[tuple[float, ...], ...]:
    """Mean and standard deviation per channel (the last axis) in float64, of pixels in [0, 1]."""
    if images.dtype != np.uint8:
        rows = images.reshape(-1, images.shape[-1]).astype(np.float64)
        stds = rows.std(0)
        return tuple(rows.mean(0).tolist()), tuple(np.where(stds > 0, stds, 1.0).tolist())
    levels = np.arange(max_pixel + 1) / max_pixel
    means, stds = [], []
    for channel in range(images.shape[-1]):
        counts = np.zeros(max_pixel + 1, np.int64)
        for _, part in blocks(images):
            counts += np.bincount(part[..., channel].ravel(), minlength=max_pixel + 1)
        mean = np.average(levels, weights=counts)
        means.append(float(mean))
        stds.append(float(np.sqrt(np.average((levels - mean) ** 2, weights=counts))) or 1.0)
    return tuple(means), tuple(stds)


def load(
    model: str | ModelSpec, dataset: Dataset, *, lowering: layers.Lowering = "auto"
) -> Network:
    """The network of ``MODELS[model]``, or of a specification of one's own, for a data set.

    It has the inputs and outputs of the data; channel means and deviations, where the model wants
    them and for inputs that are no pixels, are those of the training inputs. Raises ValueError for
    inputs the network cannot take.
    """
    name, spec = ("the network", model) if isinstance(model, ModelSpec) else (model, MODELS[model])
    images, shape = dataset.train.images, dataset.train.images.shape[1:]
    check_inputs(name, spec, dataset)
    first = []
    if spec.inputs != "tokens":
        pixels = images.dtype == np.uint8
        wanted = spec.standardize or not pixels
        moments = channel_moments(images, dataset.max_pixel) if wanted else ()
        first = [Normalize(dataset.max_pixel if pixels else 1, *moments)]

    def build(rngs):
        return Chain(*first, *spec.body(shape, dataset.num_outputs, lowering, rngs))

    try:
        return from_nnx(build)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


# What inputs are, and what of `ModelSpec.inputs` takes them.
TAKEN = {"images": ("images", "numbers"), "numbers": ("numbers",), "tokens": ("tokens",)}


def check_inputs(name: str, spec: ModelSpec, dataset: Dataset) -> None:
    """Raise ValueError, one line, unless a network is for inputs as a data set has them."""
    images = dataset.train.images
    if images.dtype == np.int32:
        kind, found = "tokens", "integers"
    else:
        kind, found = ("images",) * 2 if images.ndim == 4 else ("numbers", "real numbers")
    if spec.inputs not in TAKEN[kind]:
        valid = [n for n, other in MODELS.items() if other.inputs in TAKEN[kind]]
        pixels = " (pixels must be of uint8 or a floating type)" if kind == "tokens" else ""
        raise ValueError(
            f"{name} takes {spec.inputs}; the inputs of {dataset.name} are {found} of shape "
            f"{shown_shape(images)}, for which valid are {', '.join(valid)}{pixels}"
        )
    if kind == "tokens":
        check_tokens(name, dataset)
    if spec.least > 1 and min(images.shape[1:3]) < spec.least:
        raise ValueError(
            f"images of shape {images.shape[1:]} are too small for {name} "
            f"({spec.least} x {spec.least} at least)"
        )


def check_tokens(name: str, dataset: Dataset) -> None:
    """Raise ValueError unless inputs are tokens, and targets classes that hold them."""
    (images, labels), total = dataset.train, dataset.num_classes
    if images.ndim != 2:
        raise ValueError(
            f"{name} takes tokens of shape (n, length); the inputs of {dataset.name} have shape "
            f"{shown_shape(images)}"
        )
    if not total or labels.shape != images.shape:
        raise ValueError(
            f"{name} gives the logits of a class for each token; the targets of {dataset.name} are "
            f"of {labels.dtype} and shape {shown_shape(labels)}, and must be integers of shape "
            f"{shown_shape(images)}"
        )
    for part, split in (("train", dataset.train), ("test", dataset.test)):
        low, high = split.images.min(), split.images.max()
        if low < 0 or high >= total:
            raise ValueError(
                f"{name} takes tokens from 0 to {total - 1}, the classes of the targets; those of "
                f"{dataset.name} lie from {low} to {high} ({part})"
            )


def shown_shape(array: np.ndarray) -> str:
    """The shape of an array of examples, n of them."""
    return f"({', '.join(['n', *map(str, array.shape[1:])])}{',' if array.ndim == 1 else ''})"
