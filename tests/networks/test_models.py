"""Layers against loops, parameter counts against formulas, the contract of a network."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxsharp import networks
from jaxsharp.networks import layers, models, recompute_statistics
from tests.tinynets import cnn, generic_point, tiny_dataset

DIGITS, FASHION, CIFAR = (8, 8, 1), (28, 28, 1), (32, 32, 3)


def conv_loops(x, kernel):
    kh, kw, _, features = kernel.shape
    out = np.zeros((len(x), x.shape[1] - kh + 1, x.shape[2] - kw + 1, features))
    for n, i, j in np.ndindex(out.shape[:3]):
        out[n, i, j] = np.einsum("hwc,hwcf->f", x[n, i : i + kh, j : j + kw], kernel)
    return out


@pytest.mark.parametrize("convolve", [layers.conv_patches, layers.conv_native])
def test_convolution_is_the_sum_over_the_window(x64, convolve):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 6, 5, 3)), rng.normal(size=(3, 2, 3, 4))
    np.testing.assert_allclose(
        convolve(jnp.asarray(x), jnp.asarray(kernel)), conv_loops(x, kernel), rtol=1e-12
    )


@pytest.mark.parametrize("size", [2, 3, 5])
def test_same_padding_is_that_of_the_standard_convolution(x64, size):
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=s)) for s in ((2, 7, 6, 3), (size, size, 3, 4)))
    want = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    got = layers.conv_patches(layers.pad_same(x, size, size), kernel)
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "stride", "bias"), [(3, 2, False), (1, 2, False), (3, 1, True)])
def test_a_convolution_pads_and_strides_as_those_of_pytorch(x64, size, stride, bias):
    rng, pad = np.random.default_rng(0), (size // 2, size // 2)
    x = jnp.asarray(rng.normal(size=(2, 7, 6, 9)))
    for lowering in ("patches", "tiles", "conv"):
        options = {"stride": stride, "bias": bias, "lowering": lowering, "rngs": nnx.Rngs(0)}
        layer = layers.Conv(9, 4, size, **options)
        want = jax.lax.conv_general_dilated(
            *(x, layer.kernel[...].astype(float), (stride, stride), (pad, pad)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        if bias:
            layer.bias[...] = jnp.arange(4.0, dtype=jnp.float32)
            want += np.arange(4.0)
        np.testing.assert_allclose(layer(x), want, rtol=1e-10, atol=1e-12)


def test_kernels_have_the_variance_that_keeps_that_of_activations():
    kernel = layers.Conv(64, 128, 3, lowering="conv", rngs=nnx.Rngs(0)).kernel[...]
    np.testing.assert_allclose(kernel.std(), (2 / (9 * 64)) ** 0.5, rtol=0.02)
    np.testing.assert_allclose(kernel.mean(), 0, atol=1e-3)


@pytest.mark.parametrize("stride", [1, 2])
def test_pooling_is_the_maximum_of_the_window(stride):
    x = np.random.default_rng(0).normal(size=(2, 7, 6, 3)).astype(np.float32)
    size = ((7 - 2) // stride + 1, (6 - 2) // stride + 1)
    want = [
        [
            x[:, i * stride : i * stride + 2, j * stride : j * stride + 2].max((1, 2))
            for j in range(size[1])
        ]
        for i in range(size[0])
    ]
    np.testing.assert_array_equal(
        networks.max_pool(jnp.asarray(x), stride), np.array(want).transpose(2, 0, 1, 3)
    )


@pytest.mark.slow
def test_both_lowerings_agree_in_value_and_gradient(x64):
    dataset = tiny_dataset()
    params, stats = generic_point(cnn())

    def loss(params, lowering):
        logits, _ = cnn(lowering).apply(params, stats, dataset.train.images, True)
        return jnp.sum(jnp.square(logits))

    for lowering in ("patches", "conv"):
        value, grads = jax.value_and_grad(loss)(params, lowering)
        if lowering == "patches":
            first = value, grads
    np.testing.assert_allclose(value, first[0], rtol=1e-12)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), *(grads, first[1])
    )


@pytest.mark.slow
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the rule is for the CPU")
def test_no_native_convolution_reaches_a_program_on_the_cpu():
    dataset = tiny_dataset(shape=FASHION)
    for lowering, native in (("auto", False), ("patches", False), ("conv", True)):
        network = networks.load("simple_batch", dataset, lowering=lowering)
        params, stats = jax.eval_shape(network.init, jax.random.key(0))
        apply = lambda p, s: network.apply(p, s, dataset.train.images, True)  # noqa: B023, E731
        program = str(jax.make_jaxpr(apply)(params, stats))
        assert ("conv_general_dilated" in program) == native


def affine(inputs, outputs):
    return inputs * outputs + outputs


def conv(inputs, outputs, size=3, batch_norm=True):
    return size * size * inputs * outputs + outputs + (2 * outputs if batch_norm else 0)


def chain(count, widths):
    return sum(count(a, b) for a, b in itertools.pairwise(widths))


def plain_conv(a, b):
    return conv(a, b, 5, batch_norm=False)


COUNTS = {
    ("small_mlp", DIGITS): chain(affine, [64, 64, 64, 32, 10]),
    ("mlp_1", CIFAR): chain(affine, [3072, 512, 256, 128, 10]),
    ("mlp", FASHION): chain(affine, [784, 512, 128, 512, 10]),
    ("lenet", FASHION): chain(plain_conv, [1, 6, 16, 120]) + chain(affine, [7 * 7 * 120, 84, 10]),
    ("simple_batch", FASHION): chain(conv, [1, 16, 32, 64, 128])
    + chain(affine, [4 * 4 * 128, 128, 10]),
    ("simple_batch", CIFAR): chain(conv, [3, 16, 32, 64, 128])
    + chain(affine, [5 * 5 * 128, 128, 10]),
    ("middle_batch", FASHION): chain(conv, [1, 16, 32, 64, 128, 256, 512])
    + chain(affine, [3 * 3 * 512, 512, 10]),
    ("middle_batch", CIFAR): chain(conv, [3, 16, 32, 64, 128, 256, 512])
    + chain(affine, [4 * 4 * 512, 512, 10]),
    ("complex_batch", CIFAR): chain(conv, [3, 16, 32, 32, 64, 128, 128, 256, 512, 512])
    + chain(affine, [4 * 4 * 512, 512, 10]),
}


@pytest.mark.parametrize(("name", "shape"), COUNTS)
def test_number_of_parameters(name, shape):
    network = networks.load(name, tiny_dataset(shape=shape)._replace(num_classes=10))
    params, _ = jax.eval_shape(network.init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == COUNTS[name, shape]


@pytest.mark.slow
@pytest.mark.parametrize("name", {name: None for name, _ in COUNTS})
def test_evaluation_maps_every_example_by_itself(name):
    shape = DIGITS if name == "small_mlp" else FASHION
    dataset = tiny_dataset(num=3, shape=shape)
    network = networks.load(name, dataset)
    params, stats = jax.jit(network.init)(jax.random.key(0))
    apply = jax.jit(lambda images: network.apply(params, stats, images, False))
    logits, same = apply(dataset.train.images)
    alone = np.concatenate([apply(dataset.train.images[i : i + 1])[0] for i in range(3)])
    assert logits.shape == (3, 3)
    np.testing.assert_allclose(logits, alone, rtol=1e-4, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, same, stats)


def test_training_normalizes_by_the_batch_and_averages_statistics(x64):
    network = networks.from_nnx(lambda rngs: networks.BatchNorm(2, rngs=rngs))
    x = np.random.default_rng(0).normal(3, 2, (50, 2))
    params = {"scale": jnp.array([2.0, 1.0]), "bias": jnp.array([0.0, -1.0])}
    stats = {"mean": jnp.array([1.0, 0.0]), "var": jnp.array([4.0, 1.0])}
    out, new = network.apply(params, stats, jnp.asarray(x), True)
    normal = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    np.testing.assert_allclose(out, normal * [2, 1] + [0, -1], rtol=1e-10)
    np.testing.assert_allclose(new["mean"], 0.9 * stats["mean"] + 0.1 * x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(new["var"], 0.9 * stats["var"] + 0.1 * x.var(0), rtol=1e-10)


@pytest.mark.slow
def test_initialization_is_uniform_with_the_fan_in_bound():
    dataset = tiny_dataset(shape=FASHION)
    params, _ = networks.load("simple_batch", dataset).init(jax.random.key(0))
    for name, fan_in in (("conv3", 9 * 32), ("dense1", 2048)):
        for leaf in params[name].values():
            bound = fan_in**-0.5
            assert np.abs(leaf).max() <= bound
            np.testing.assert_allclose(np.std(leaf), bound / 3**0.5, rtol=0.2)
    np.testing.assert_array_equal(params["norm1"]["scale"], 1)


def test_pixels_are_scaled_and_standardized_where_the_model_says_so():
    dataset = tiny_dataset(num=200, shape=CIFAR)
    mean, std = models.channel_moments(dataset.train.images, 255)
    scaled = dataset.train.images / 255
    np.testing.assert_allclose(mean, scaled.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, scaled.std((0, 1, 2)), rtol=1e-12)
    normalize = models.Normalize(255, mean, std)
    np.testing.assert_allclose(
        normalize(dataset.train.images.astype(np.float32)), (scaled - mean) / std, atol=1e-5
    )
    assert networks.MODELS["mlp_1"].standardize
    assert not networks.MODELS["simple_batch"].standardize


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [None, 7])
def test_recomputed_statistics_are_those_of_the_whole_set(x64, chunk_size):
    dataset = tiny_dataset()
    network, images = cnn(), dataset.train.images
    params, stats = generic_point(network)
    exact = recompute_statistics(network, params, stats, images, chunk_size=chunk_size)
    by_batch, _ = network.apply(params, stats, images, True)  # normalized by the whole set
    frozen, _ = network.apply(params, exact, images, False)
    np.testing.assert_allclose(frozen, by_batch, rtol=1e-9)
    old, _ = network.apply(params, stats, images, False)
    assert np.abs(old - by_batch).max() > 0.1


@pytest.mark.slow
def test_images_too_small_for_a_network_are_refused():
    """The smallest that are taken have a network; what is said of smaller ones names both."""
    for name, spec in networks.MODELS.items():
        if spec.inputs == "tokens":
            continue
        least = spec.least
        network = networks.load(name, tiny_dataset(shape=(least, least, 1)))
        params, stats = jax.eval_shape(network.init, jax.random.key(0))
        images = jax.ShapeDtypeStruct((2, least, least, 1), np.uint8)
        apply = functools.partial(network.apply, train=False)
        assert jax.eval_shape(apply, params, stats, images)[0].shape[0] == 2
        if least > 1:
            smaller = tiny_dataset(shape=(least + 1, least - 1, 1))
            said = rf"are too small for {name} \({least} x {least} at least\)"
            with pytest.raises(ValueError, match=said):
                networks.load(name, smaller)
    assert networks.MODELS["simple_batch"].least == 16
