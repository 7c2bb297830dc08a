"""Parameters from files: by name, by PyTorch's names and axes, and what does not fit is named."""

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from jaxsharp import networks

RNG = np.random.default_rng(0)


class Net(nnx.Module):
    """A convolution, BatchNorm and a dense layer."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 3, (2, 2), padding="VALID", rngs=rngs)
        self.norm, self.last = nnx.BatchNorm(3, rngs=rngs), nnx.Linear(3, 4, rngs=rngs)

    def __call__(self, x):
        return self.last(self.norm(self.conv(x)).mean((1, 2)))


NETWORK = networks.from_nnx(lambda rngs: Net(rngs))
TORCH = {
    "conv.weight": (3, 2, 2, 2),
    "conv.bias": (3,),
    "norm.weight": (3,),
    "norm.bias": (3,),
    "norm.running_mean": (3,),
    "norm.running_var": (3,),
    "last.weight": (4, 3),
    "last.bias": (4,),
}
ARRAYS = {name: RNG.uniform(0.5, 1, shape).astype(np.float32) for name, shape in TORCH.items()}


@pytest.mark.slow
def test_a_state_dict_of_pytorch_is_the_same_function(tmp_path):
    save_file(ARRAYS | {"norm.num_batches_tracked": np.array(7)}, tmp_path / "w.safetensors")
    params, stats = networks.load_weights(tmp_path / "w.safetensors", NETWORK)
    images = RNG.normal(size=(5, 4, 4, 2)).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(images, (2, 2), (1, 2))
    hidden = np.einsum("nxychw,ochw->nxyo", windows, ARRAYS["conv.weight"]) + ARRAYS["conv.bias"]
    scale = ARRAYS["norm.weight"] / np.sqrt(ARRAYS["norm.running_var"] + 1e-5)
    hidden = (hidden - ARRAYS["norm.running_mean"]) * scale + ARRAYS["norm.bias"]
    want = hidden.mean((1, 2)) @ ARRAYS["last.weight"].T + ARRAYS["last.bias"]
    np.testing.assert_allclose(NETWORK.evaluate(params, stats, images), want, rtol=1e-4)


@pytest.mark.parametrize("separator", [".", "/"])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_the_networks_own_names_are_read_as_they_are(tmp_path, prefix, separator):
    made = NETWORK.init(jax.random.key(0))
    flat = {
        prefix + jax.tree_util.keystr(path[1:], simple=True, separator="."): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(made)[0]
    }
    named = {name.replace(".", separator): leaf for name, leaf in flat.items()}
    np.savez(tmp_path / "w.npz", **named)
    found = networks.load_weights(tmp_path / "w.npz", NETWORK)
    jax.tree.map(np.testing.assert_array_equal, found, made)


def test_what_does_not_fit_is_named_in_one_line(tmp_path):
    def said(arrays):
        save_file(arrays, tmp_path / "w.safetensors")
        with pytest.raises(ValueError) as refused:
            networks.load_weights(tmp_path / "w.safetensors", NETWORK)
        assert "\n" not in str(refused.value) and "w.safetensors" in str(refused.value)
        return str(refused.value)

    assert "missing: last.kernel" in said({k: v for k, v in ARRAYS.items() if k != "last.weight"})
    assert "surplus: head.weight" in said({**ARRAYS, "head.weight": np.ones(2, np.float32)})
    text = said({**ARRAYS, "last.weight": np.ones((3, 5), np.float32)})
    assert "last.weight of (3, 5) for last.kernel of (3, 4)" in text
    (tmp_path / "bad.npz").write_text("x")
    for name, message in {
        "bad.npz": "cannot be read",
        "absent.npz": "no file of parameters",
        "w.pt": "valid are .safetensors, .npz and folders of orbax",
    }.items():
        with pytest.raises(ValueError, match=message):
            networks.load_weights(tmp_path / name, NETWORK)


@pytest.mark.slow
def test_nested_dictionaries_come_to_their_places():
    """Keys that are texts, in any order, as `runs.load_parameters` has them."""
    layers = lambda rngs: [nnx.Linear(2, 2, rngs=rngs) for _ in range(11)]  # noqa: E731
    made = networks.from_nnx(lambda rngs: nnx.Sequential(*layers(rngs)))
    params, stats = jax.device_get(made.init(jax.random.key(0)))
    params = jax.tree.map(lambda leaf: RNG.normal(size=leaf.shape).astype(leaf.dtype), params)

    def nested(tree):
        if not isinstance(tree, dict):
            return tree
        return {str(key): nested(tree[key]) for key in reversed(tree)}

    found = networks.place_weights(made, nested(params), nested(stats))
    jax.tree.map(np.testing.assert_array_equal, found, (params, stats))
    with pytest.raises(ValueError, match="does not fit the network; missing"):
        networks.place_weights(made, {}, {})
