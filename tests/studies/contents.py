"""A data set and a network, and changes of them under the same names."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxsharp import studies
from jaxsharp.networks import Network
from jaxsharp.runs import Settings
from jaxsharp.studies.workbench import Workbench
from tests.tinynets import NUM_CLASSES, tiny_dataset

CONFIG = studies.StudyConfig(
    dataset="mine",
    model="mine",
    optimizers=("sgd",),
    sam=("none",),
    seeds=2,
    measures=("top_eigenvalue",),
    settings=Settings(epochs=1, batch_size=8),
)
DATA = tiny_dataset(num=24, shape=(2, 2, 1))
SHIFT = np.linspace(-1, 1, 4, dtype=np.float32)


@jax.custom_jvp
def gentle(x):
    return jnp.tanh(x)


gentle.defjvp(lambda x, dx: (gentle(*x), dx[0]))


@jax.custom_jvp
def steep(x):
    return jnp.tanh(x)


steep.defjvp(lambda x, dx: (steep(*x), 2 * dx[0]))


def network(activation=gentle, scale=255.0, shift=SHIFT, width=3, rate=0.5):
    """A network of a researcher's own, made of plain functions."""

    def init(key):
        keys = jax.random.split(key)
        shapes = {"in": (4, width), "out": (width, NUM_CLASSES)}
        draw = lambda key, shape: rate * jax.random.normal(key, shape)  # noqa: E731
        return {name: draw(k, s) for k, (name, s) in zip(keys, shapes.items(), strict=True)}, {}

    def apply(params, stats, images, train):
        x = images.reshape(len(images), -1).astype(jnp.float32) / scale + shift
        return activation(x @ params["in"]) @ params["out"], stats

    return Network(init, apply, lambda params, stats, images: stats)


def bench_of(dataset=DATA, **changes):
    made = network(**changes)
    return Workbench(dataset, made, made)


def data_of(split="train", **changes):
    return DATA._replace(**{split: getattr(DATA, split)._replace(**changes)})


def with_one_pixel():
    images = DATA.train.images.copy()
    images[5, 1, 0, 0] ^= 1
    return data_of(images=images)


def another_split():
    """The last training example is a test example instead."""
    (images, labels), test = DATA.train, DATA.test
    shorter = data_of(images=images[:-1], labels=labels[:-1])
    moved = [np.concatenate([a[-1:], b]) for a, b in zip((images, labels), test, strict=True)]
    return shorter._replace(test=type(test)(*moved))


PERMUTED = np.roll(DATA.train.labels, 1)
CHANGES = {
    "activation": (lambda: bench_of(activation=jnp.sin), {"network"}),
    "constant": (lambda: bench_of(scale=254.0), {"network"}),
    "closed-over array": (lambda: bench_of(shift=SHIFT + np.float32(1e-6)), {"network"}),
    "initialization": (lambda: bench_of(rate=0.25), {"network"}),
    "width": (lambda: bench_of(width=4), {"network", "optimizer"}),
    "derivative": (lambda: bench_of(activation=steep), {"network"}),
    "trained network": (lambda: bench_of()._replace(trained=network(scale=254.0)), {"network"}),
    "pixel": (lambda: bench_of(with_one_pixel()), {"train images"}),
    "labels": (lambda: bench_of(data_of(labels=PERMUTED)), {"train labels"}),
    "classes": (lambda: bench_of(DATA._replace(num_classes=4)), {"train labels"}),
    "dtype": (
        lambda: bench_of(data_of(images=DATA.train.images.astype(np.int16))),
        {"train images", "network"},
    ),
    "test images": (
        lambda: bench_of(data_of("test", images=DATA.test.images[::-1])),
        {"test images"},
    ),
    "test labels": (
        lambda: bench_of(data_of("test", labels=DATA.test.labels[::-1])),
        {"test labels"},
    ),
    "split": (
        lambda: bench_of(another_split()),
        {"train images", "train labels", "test images", "test labels"},
    ),
}
