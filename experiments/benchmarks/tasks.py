"""The benchmark's data and networks, and the same networks with the same weights in PyTorch."""

import functools
import itertools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from jaxsharp import data, networks
from jaxsharp.networks import Network, layers, models, recompute_statistics

REFERENCE_CHUNK = 256
TRAINED_ON = 4096  # examples

# The layers behind the normalization of the pixels, for PyTorch. "same": padded to keep the size.
LAYERS = {
    "mlp": "dense relu dense relu dense relu dense",
    "mlp_1": "dense relu dense relu dense relu dense norm",
    "lenet": "conv_same relu pool_1 conv relu pool conv relu flatten dense relu dense",
    "simple_batch": "conv relu norm conv relu norm pool conv relu norm conv relu norm pool"
    " flatten dense relu dense",
    "tiny_cnn": "conv relu norm pool flatten dense",
}


@dataclass(frozen=True, eq=False)
class Task:
    """A loss at given weights on given data; `product` is the reference in float64."""

    model: str
    network: Network
    loss: Callable
    params: Any
    stats: Any
    images: jax.Array  # uint8, (n, height, width, channels)
    labels: jax.Array
    pixels: tuple  # largest pixel, means and deviations of the channels
    product: Callable

    @property
    def batch(self):
        """The data as the loss takes it."""
        return self.images, self.labels

    def first(self, num):
        """The same task on the first examples alone."""
        return replace(self, images=self.images[:num] + 0, labels=self.labels[:num] + 0)


class TorchTask(NamedTuple):
    """The same in PyTorch, its inputs normalized beforehand."""

    module: Any
    inputs: Any
    labels: Any


@functools.cache
def make_task(model, dataset, smoke, num, *, steps=0, width=0) -> Task:
    """The task of a model on the first `num` examples of dataset(smoke).

    The model is one of `networks.MODELS`, trained for some steps, or "tiny_cnn", or "wide": an MLP
    with three hidden layers of one width.
    """
    data_set = dataset(smoke)
    shape, pixels = data_set.train.images.shape[1:], models.Normalize(data_set.max_pixel)
    if model == "wide":
        network = networks.from_nnx(functools.partial(_wide, pixels, int(np.prod(shape)), width))
    elif model == "tiny_cnn":
        network = networks.from_nnx(functools.partial(_tiny_cnn, pixels, shape))
    else:
        network = networks.load(model, data_set)
    return _task(model, network, data_set, num, steps)


def _wide(pixels, inputs, width, rngs):
    steps = [pixels, _flatten]
    for before, after in itertools.pairwise((inputs, width, width, width)):
        steps += [layers.dense(before, after, rngs), jax.nn.relu]
    return models.Chain(*steps, layers.dense(width, 10, rngs))


def _tiny_cnn(pixels, shape, rngs):
    height, width, channels = shape
    conv = networks.ConvReLU(channels, 2, 3, padding="VALID", lowering="auto", rngs=rngs)
    head = layers.dense((height - 2) // 2 * ((width - 2) // 2) * 2, 10, rngs)
    steps = [conv, networks.BatchNorm(2, rngs=rngs), networks.max_pool, _flatten, head]
    return models.Chain(pixels, *steps)


def _flatten(x):
    return x.reshape(len(x), -1)


def _task(model, network, dataset, num, steps):
    images = jnp.asarray(dataset.train.images[:num])
    labels = jnp.asarray(dataset.train.labels[:num], jnp.int32)
    params, stats = network.init(jax.random.key(0))
    if jax.tree.leaves(stats):
        recompute = functools.partial(recompute_statistics, network, chunk_size=REFERENCE_CHUNK)
        stats = jax.jit(recompute)(params, stats, images)
    loss = network.frozen_loss(stats)
    if steps:
        params = _trained(loss, params, images[:TRAINED_ON], labels[:TRAINED_ON], steps)
    pixels = (dataset.max_pixel, (0.0,), (1.0,))
    if model in networks.MODELS and networks.MODELS[model].standardize:
        moments = models.channel_moments(dataset.train.images, dataset.max_pixel)
        pixels = (dataset.max_pixel, *moments)
    product = _reference(loss)
    return Task(model, network, loss, params, stats, images, labels, pixels, product)


def _trained(loss, params, images, labels, steps, batch_size=128):
    """The weights after some steps of Adam, so that the spectrum is that of a trained network."""
    optimizer = optax.adam(1e-3)
    batch_size = min(batch_size, len(labels))

    @jax.jit
    def train(params, images, labels):
        def step(i, carry):
            params, state = carry
            chosen = jax.random.choice(jax.random.key(i), len(labels), (batch_size,))
            gradient = jax.grad(loss)(params, (images[chosen], labels[chosen]))
            updates, state = optimizer.update(gradient, state)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, steps, step, (params, optimizer.init(params)))[0]

    return train(params, images, labels)


def _reference(loss):
    """Return product(params, batch, v) -> H v in float64, flat, by no code of jaxsharp."""

    @jax.jit
    def chunk_product(params, chunk, vector):
        gradient = jax.grad(lambda point: loss(point, chunk))
        return ravel_pytree(jax.jvp(gradient, (params,), (vector,))[1])[0]

    def product(params, batch, vector):
        n = len(batch[1])
        with jax.enable_x64(True):
            params, vector = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), (params, vector))
            total = 0.0
            for start in range(0, n, REFERENCE_CHUNK):
                chunk = jax.tree.map(lambda a, i=start: a[i : i + REFERENCE_CHUNK], batch)
                total += np.asarray(chunk_product(params, chunk, vector)) * len(chunk[1]) / n
        return total

    return product


@functools.cache
def fashion_mnist(smoke: bool) -> data.Dataset:
    """FashionMNIST; in the smoke form the embedded digits."""
    return data.load("digits" if smoke else "fashion_mnist")


@functools.cache
def cifar10_shaped(smoke: bool) -> data.Dataset:
    """Random images of the shape of CIFAR-10, each of 4 x 4 squares.

    With independent pixels all activations would be nearly alike, and a product mostly rounding.
    """
    rng = np.random.default_rng(0)
    num, zoom = (100, 2) if smoke else (10_000, 8)
    images = rng.integers(0, 256, (num, 4, 4, 3), dtype=np.uint8).repeat(zoom, 1).repeat(zoom, 2)
    split = data.Split(images, rng.integers(0, 10, num).astype(np.int32))
    return data.Dataset("random", split, split, 10, 255, "drawn")


def to_torch(task: Task) -> TorchTask:
    """The network in evaluation mode with the same weights, and its inputs."""
    import torch

    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    max_pixel, mean, std = task.pixels
    inputs = ((np.asarray(task.images) / max_pixel - mean) / std).astype(np.float32)
    if "conv" in LAYERS[task.model]:
        inputs = np.ascontiguousarray(inputs.transpose(0, 3, 1, 2))
    else:
        inputs = inputs.reshape(len(inputs), -1)
    module = _module(task).eval()
    with torch.no_grad():
        weights = list_of_tensors(task.params, module)
        for parameter, value in zip(module.parameters(), weights, strict=True):
            parameter.copy_(value)
        for name, statistic in module.named_buffers():
            layer, _, kind = name.partition(".running_")
            if kind:
                statistic.copy_(torch.tensor(np.asarray(task.stats[layer][kind])))
    labels = torch.tensor(np.asarray(task.labels), dtype=torch.int64, device=device)
    return TorchTask(module.to(device), torch.from_numpy(inputs).to(device), labels)


def _module(task):
    """The PyTorch module, its layers named as in the tree of parameters."""
    from torch import nn

    class ChannelsLast(nn.Module):
        """Flattens height, width, channels, in the order that the dense layer's weights have."""

        def forward(self, x):
            return x.permute(0, 2, 3, 1).flatten(1)

    steps, counts = OrderedDict(), {}
    for place, word in enumerate(LAYERS[task.model].split()):
        kind, _, option = word.partition("_")
        counts[kind] = counts.get(kind, 0) + 1
        name = f"{kind}{counts[kind]}"
        shape = task.params[name]["kernel"].shape if kind in ("dense", "conv") else ()
        if kind == "dense":
            steps[name] = nn.Linear(*shape)
        elif kind == "conv":
            padding = shape[0] // 2 if option == "same" else 0
            steps[name] = nn.Conv2d(shape[2], shape[3], shape[0], padding=padding)
        elif kind == "norm":
            affine, size = name in task.params, len(task.stats[name]["mean"])
            two_dimensional = "conv" in LAYERS[task.model]
            norm = nn.BatchNorm2d if two_dimensional else nn.BatchNorm1d
            steps[name] = norm(size, affine=affine)
        elif kind == "pool":
            steps[f"{name}_{place}"] = nn.MaxPool2d(2, stride=int(option or 2))
        else:
            steps[f"{name}_{place}"] = nn.ReLU() if kind == "relu" else ChannelsLast()
    return nn.Sequential(steps)


def list_of_tensors(tree, module):
    """A tree like the parameters as PyTorch's list, in the order of `module.parameters()`."""
    import torch

    tensors = []
    for name, parameter in module.named_parameters():
        layer, kind = name.split(".")
        names = tree[layer]
        leaf = np.asarray(
            names[kind] if kind == "bias" else names.get("kernel", names.get("scale"))
        )
        axes = {2: (1, 0), 4: (3, 2, 0, 1)}.get(leaf.ndim, (0,))
        leaf = np.array(leaf.transpose(axes), np.float32, order="C")
        tensors.append(torch.from_numpy(leaf).to(parameter.device))
    return tensors


def tree_of_arrays(tensors, module):
    """The inverse of `list_of_tensors`."""
    tree = {}
    for (name, parameter), tensor in zip(module.named_parameters(), tensors, strict=True):
        layer, kind = name.split(".")
        leaf = tensor.detach().cpu().numpy().reshape(parameter.shape)
        if kind == "weight":
            kind = "scale" if leaf.ndim == 1 else "kernel"
        axes = {2: (1, 0), 4: (2, 3, 1, 0)}.get(leaf.ndim, (0,))
        tree.setdefault(layer, {})[kind] = np.ascontiguousarray(leaf.transpose(axes))
    return tree


def tree_of_vector(vector, module):
    """The tree of a flat PyTorch or NumPy vector in the order of `module.parameters()`."""
    import torch

    sizes = [parameter.numel() for parameter in module.parameters()]
    return tree_of_arrays(torch.as_tensor(vector).split(sizes), module)
