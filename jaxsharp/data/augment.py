"""Random changes of training images, inside a compiled step: pure functions of a key and a batch.

| name | change of an image |
|---|---|
| crop | shifted by up to 4 pixels, zeros beyond its edges (He et al. 2016, section 4.2) |
| flip | mirrored left to right, every second on average |
| cutout | a square of half its side set to zero, at a random place (DeVries and Taylor 2017) |
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, Shaped

from jaxsharp.core.choices import known

PAD = 4

Images = Shaped[Array, "n h w c"]


def crop(key: PRNGKeyArray, images: Images) -> Images:
    """Each image shifted by integers uniform on -4 to 4 in both directions, zeros moved in."""
    n, height, width, channels = images.shape
    padded = jnp.pad(images, ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0)))
    corners = jax.random.randint(key, (n, 2), 0, 2 * PAD + 1)

    def one(image, corner):
        return jax.lax.dynamic_slice(image, (*corner, 0), (height, width, channels))

    return jax.vmap(one)(padded, corners)


def flip(key: PRNGKeyArray, images: Images) -> Images:
    """Each image mirrored left to right with probability 1/2."""
    mirrored = jax.random.bernoulli(key, shape=(len(images), 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def cutout(key: PRNGKeyArray, images: Images) -> Images:
    """Each image with zeros in a square of half its shorter side, centered at a uniform pixel."""
    n, height, width, _ = images.shape
    side = min(height, width) // 2
    centers = [
        jax.random.randint(each, (n, 1), 0, size)
        for each, size in zip(jax.random.split(key), (height, width), strict=True)
    ]
    pixels = (jnp.arange(size)[None] for size in (height, width))
    rows, columns = (
        (places >= center - side // 2) & (places < center + side - side // 2)
        for center, places in zip(centers, pixels, strict=True)
    )
    return jnp.where((rows[:, :, None] & columns[:, None, :])[..., None], 0, images)


AUGMENTATIONS: dict[str, Callable] = {"crop": crop, "flip": flip, "cutout": cutout}


def steps_of(name: str) -> tuple[str, ...]:
    """The changes that a name as crop_flip stands for, in order; none for "none"."""
    if name == "none":
        return ()
    return tuple(known("augmentation", step, AUGMENTATIONS) for step in name.split("_"))


def augmented(
    name: str, key: PRNGKeyArray, images: Shaped[Array, "n ..."]
) -> Shaped[Array, "n ..."]:
    """The images after all changes of a name, each with a key of its own."""
    for i, step in enumerate(steps_of(name)):
        images = AUGMENTATIONS[step](jax.random.fold_in(key, i), images)
    return images
