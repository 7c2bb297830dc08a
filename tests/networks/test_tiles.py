"""Convolutions by tiles against the standard ones: values, gradients, vmap, accuracy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsharp.networks import layers, tiles

WINDOWS = [
    ((7, 6, 5, 3), (3, 2, 3, 4)),
    ((4, 9, 8, 2), (3, 3, 2, 5)),
    ((2, 7, 7, 16), (5, 5, 16, 3)),
]
TRANSFORMS = [
    ((4, 8, 6, 8), (3, 3, 8, 5)),
    ((5, 7, 10, 9), (3, 3, 9, 2)),
    ((3, 3, 5, 8), (3, 3, 8, 1)),
    ((1, 3, 3, 8), (3, 3, 8, 4)),
]


def standard(x, kernel, bias):
    return jax.nn.relu(layers.conv_native(x, kernel) + bias)


def draw(shape, kernel_shape, dtype=np.float64):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=s), dtype) for s in (shape, kernel_shape, kernel_shape[3:])]


def everything(convolve, args):
    """Value, and the gradients with respect to image, kernel and bias, if any, of a function."""

    def loss(*args):
        value = convolve(*args)
        return jnp.sum(jnp.sin(3 * value)), value

    @jax.jit  # a new program at every call, as sizes of tiles are no arguments
    def program(*args):
        gradients, value = jax.grad(loss, tuple(range(len(args))), has_aux=True)(*args)
        return value, *gradients

    return program(*args)


@functools.cache
def expected(shape, kernel_shape):
    return everything(standard, draw(shape, kernel_shape))


def assert_close(got, want, tol=1e-12):
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=tol * np.abs(other).max())


@pytest.mark.parametrize("bytes_of_tile", [1, 2**13, 2**21])
@pytest.mark.parametrize(("shape", "kernel_shape"), WINDOWS + TRANSFORMS)
def test_values_and_gradients_are_those_of_the_standard_convolution(
    x64, monkeypatch, shape, kernel_shape, bytes_of_tile
):
    monkeypatch.setattr(tiles, "TILE_BYTES", bytes_of_tile)
    args = draw(shape, kernel_shape)
    assert_close(everything(tiles.conv_relu, args), expected(shape, kernel_shape))


@pytest.mark.parametrize(
    ("shape", "kernel_shape", "stride", "bias"),
    [
        ((4, 9, 8, 8), (3, 3, 8, 5), 2, False),
        ((6, 7, 7, 3), (1, 1, 3, 4), 2, False),
        ((4, 9, 8, 2), (2, 3, 2, 5), 3, True),
        ((4, 8, 7, 8), (3, 3, 8, 5), 1, False),
        ((4, 8, 7, 8), (3, 3, 8, 5), 1, True),
    ],
)
def test_strides_and_convolutions_without_bias_or_relu(
    x64, monkeypatch, shape, kernel_shape, stride, bias
):
    monkeypatch.setattr(tiles, "TILE_BYTES", 2**13)
    args = draw(shape, kernel_shape)[: 3 if bias else 2]

    def native(x, kernel, bias=0.0):
        return layers.conv_native(x, kernel, stride) + bias

    def patches(x, kernel, bias=0.0):
        return layers.conv_patches(x, kernel, stride) + bias

    want = everything(native, args)
    assert_close(everything(functools.partial(tiles.conv, stride=stride), args), want)
    assert_close(everything(patches, args), want)


@pytest.mark.slow
def test_large_kernels_of_many_channels_take_the_transforms(monkeypatch):
    monkeypatch.setattr(tiles, "patches", None)
    for shapes in TRANSFORMS:
        tiles.conv_relu(*draw(*shapes, np.float32))
    with pytest.raises(TypeError):
        tiles.conv_relu(*draw(*WINDOWS[0], np.float32))


@pytest.mark.slow
def test_a_vmap_over_members_gives_those_of_each(x64):
    x, kernel, bias = draw(*TRANSFORMS[0])
    kernels, biases = jnp.stack([kernel, 2 * kernel]), jnp.stack([bias, -bias])
    together = jax.vmap(lambda *own: everything(tiles.conv_relu, (x, *own)))(kernels, biases)
    for i in range(2):
        alone = everything(tiles.conv_relu, (x, kernels[i], biases[i]))
        assert_close([leaf[i] for leaf in together], alone)


@pytest.mark.slow
def test_in_single_precision_the_transforms_err_little_more_than_windows(x64):
    args = draw((8, 14, 14, 64), (3, 3, 64, 32), np.float32)
    want = everything(standard, [a.astype(float) for a in args])
    got, usual = (everything(f, args) for f in (tiles.conv_relu, standard))
    for one, other, exact in zip(got, usual, want, strict=True):
        errors = [np.linalg.norm(each - exact) / np.linalg.norm(exact) for each in (one, other)]
        assert errors[0] < 2 * errors[1] < 1e-4


def test_of_a_batch_only_a_tile_is_spread_at_a_time(monkeypatch):
    monkeypatch.setattr(tiles, "TILE_BYTES", 2**18)
    x, kernel, bias = draw((64, 16, 16, 8), (3, 3, 8, 8), np.float32)
    gradient = jax.jit(jax.grad(lambda *args: tiles.conv_relu(*args).sum(), (0, 1)))
    memory = gradient.lower(x, kernel, bias).compile().memory_analysis()
    rows = 16 * 64 * 7 * 7 * 8 * 4  # bytes of S(x) of the whole batch
    assert memory.temp_size_in_bytes < 2 * x.nbytes + 2 * tiles.TILE_BYTES < rows
