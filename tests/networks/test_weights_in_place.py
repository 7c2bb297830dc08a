"""Arrays of square shapes, of one name and of other types: each where it should be, or refused."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from safetensors.numpy import save_file

from jaxsharp import networks

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(2, 5, 6, 4)).astype(np.float32)


def by_hand(weight, bias, stride):
    """PyTorch's ConvTranspose2d without padding, of weight (in, out, h, w)."""
    n, height, width, _ = IMAGES.shape
    kh, kw = weight.shape[2:]
    out = np.zeros((n, (height - 1) * stride + kh, (width - 1) * stride + kw, weight.shape[1]))
    for i, j in np.ndindex(height, width):
        part = np.einsum("nc,cohw->nhwo", IMAGES[:, i, j].astype(np.float64), weight)
        out[:, i * stride : i * stride + kh, j * stride : j * stride + kw] += part
    return out + bias


class Net(nnx.Module):
    """A transposed convolution of NNX."""

    def __init__(self, features, rngs, **options):
        self.up = nnx.ConvTranspose(4, features, (2, 3), padding="VALID", rngs=rngs, **options)

    def __call__(self, x):
        return self.up(x)


class Module(linen.Module):
    """The same of Linen, in a module of a module."""

    features: int
    options: dict

    @linen.compact
    def __call__(self, x):
        size = (2, 3)
        return linen.ConvTranspose(self.features, size, padding="VALID", name="up", **self.options)(
            x
        )


def made(library, features, **options):
    if library == "nnx":
        return networks.from_nnx(lambda rngs: Net(features, rngs, **options))
    return networks.from_linen(Module(features, options), IMAGES)


@pytest.mark.parametrize("library", ["nnx", "linen"])
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize(("features", "stride"), [(4, 1), (4, 2), (3, 2)])
def test_transposed_convolutions_of_pytorch_are_the_same(
    tmp_path, library, transpose, features, stride
):
    weight = RNG.normal(size=(4, features, 2, 3)).astype(np.float32)
    bias = RNG.normal(size=features).astype(np.float32)
    save_file({"up.weight": weight, "up.bias": bias}, tmp_path / "w.safetensors")
    options = {"strides": (stride, stride), "transpose_kernel": transpose}
    network = made(library, features, **options)
    found = networks.load_weights(tmp_path / "w.safetensors", network)
    want = by_hand(weight, bias, stride)
    np.testing.assert_allclose(network.evaluate(*found, IMAGES), want, rtol=1e-4, atol=1e-5)
    own = jax.tree.map(np.asarray, network.init(jax.random.key(0)))
    kept = networks.place_weights(network, *own)
    np.testing.assert_array_equal(kept[0]["up"]["kernel"], own[0]["up"]["kernel"])


@pytest.mark.parametrize("library", ["nnx", "linen", "equinox"])
def test_square_matrices_are_the_way_round_that_the_library_has_them(tmp_path, library):
    weight = RNG.normal(size=(4, 4)).astype(np.float32)
    make = {
        "nnx": lambda: networks.from_nnx(lambda rngs: nnx.Linear(4, 4, use_bias=False, rngs=rngs)),
        "linen": lambda: networks.from_linen(linen.Dense(4, use_bias=False), IMAGES[0, 0]),
        "equinox": lambda: networks.from_equinox(
            lambda key: eqx.nn.Linear(4, 4, use_bias=False, key=key)
        ),
    }
    save_file({"weight": weight}, tmp_path / "w.safetensors")
    network = make[library]()
    found = networks.load_weights(tmp_path / "w.safetensors", network)
    x = IMAGES[0, 0]
    np.testing.assert_allclose(network.evaluate(*found, x), x @ weight.T, rtol=1e-4, atol=1e-5)


def test_parameters_and_statistics_of_one_name_are_not_confused(tmp_path):
    init = lambda key: ({"w": jnp.ones((3, 3))}, {"w": jnp.zeros((3, 3))})  # noqa: E731
    network = networks.Network(init, lambda params, stats, x, train: (x @ params["w"], stats))
    params, stats = {"w": np.full((3, 3), 2.0)}, {"w": np.full((3, 3), 5.0)}
    found = networks.place_weights(network, params, stats)
    np.testing.assert_array_equal(found[0]["w"], params["w"])
    np.testing.assert_array_equal(found[1]["w"], stats["w"])
    np.savez(tmp_path / "w.npz", **params)
    with pytest.raises(ValueError, match=r"npz: w is a parameter and a statistic of the network"):
        networks.load_weights(tmp_path / "w.npz", network)


ODD = {
    "of another type: kernel of int8 for kernel of float32": np.ones((3, 3), np.int8),
    "of another type: kernel of complex64 for kernel of float32": np.ones((3, 3), np.complex64),
    "of another type: kernel of <U3 for kernel of float32": np.full((3, 3), "1.5"),
    "of another type: kernel of bool for kernel of float32": np.ones((3, 3), bool),
    "of another type: kernel has values beyond float32": np.full((3, 3), 1e300),
}


@pytest.mark.parametrize("message", ODD)
def test_numbers_that_the_network_would_not_have_are_refused(tmp_path, message):
    network = networks.from_nnx(lambda rngs: nnx.Linear(3, 3, use_bias=False, rngs=rngs))
    np.savez(tmp_path / "w.npz", kernel=ODD[message])
    with pytest.raises(ValueError, match=r"does not fit the network") as refused:
        networks.load_weights(tmp_path / "w.npz", network)
    assert str(refused.value).endswith(message)
