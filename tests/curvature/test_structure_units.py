"""Rescalings of single units read off programs: by hand, against layers, as what leaves f alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsharp.curvature import StructureError, analyze, analyze_units
from tests.tinynets import cnn, generic_point, mlp, tiny_dataset

pytestmark = pytest.mark.usefixtures("double_precision")

relu = jax.nn.relu


def conv(x, kernel, groups=1, stride=1):
    """Of an image (height, width, channels) and a kernel (kh, kw, in, out)."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        *(x[None], kernel, (stride, stride), "SAME"),
        dimension_numbers=numbers,
        feature_group_count=groups,
    )[0]


def image(x):
    return x.reshape(2, 3, 1)


# Programs of parameters w (6, 4), v (4, 4), b (4,), g (4,), k and d (3, 3, 1, 4), o (4, 2) and an
# example of 6 numbers; how many units they have.
PROGRAMS = {
    "dense": (lambda p, s, x: relu(x @ p["w"] + p["b"]) @ p["o"], 4),
    "two": (lambda p, s, x: relu(relu(x @ p["w"]) @ p["v"] + p["b"]) @ p["o"], 8),
    "transposed": (lambda p, s, x: p["o"].T @ relu(p["w"].T @ x), 4),
    "gain": (lambda p, s, x: relu((x @ p["w"]) * p["g"] + p["b"]) @ p["o"], 8),
    "folded_gain": (lambda p, s, x: relu(x @ p["w"] * (0.5 * p["g"][None])[0]) @ p["o"], 8),
    "shortcut": (lambda p, s, x: (h := relu(x @ p["w"])) @ p["o"] + (relu(h @ p["v"]) + h)[:2], 2),
    "added": (lambda p, s, x: ((h := relu(x @ p["w"])) + relu(h @ p["v"])) @ p["o"], 4),
    "conv": (lambda p, s, x: relu(conv(image(x), p["k"]) + p["b"]).mean((0, 1)) @ p["o"], 4),
    "depthwise": (
        lambda p, s, x: relu(conv(relu(conv(image(x), p["k"])), p["d"], 4)).max((0, 1)) @ p["o"],
        8,
    ),
    "flattened": (
        lambda p, s, x: relu(conv(image(x), p["k"], stride=3)).ravel() @ p["v"] @ p["o"],
        8,
    ),
    "pooled": (
        lambda p, s, x: (
            jax.lax.reduce_window(
                relu(conv(image(x), p["k"])), -jnp.inf, jax.lax.max, (2, 3, 1), (2, 3, 1), "VALID"
            ).ravel()
            @ p["o"]
        ),
        4,
    ),
    "joined": (
        lambda p, s, x: relu(x @ jnp.concatenate([p["w"][:, :2], p["w"][:, 2:]], 1)) @ p["o"],
        4,
    ),
    "padded": (lambda p, s, x: jnp.pad(relu(x @ p["w"]), (1, 0))[:4] @ p["v"] @ p["o"], 8),
    "heads": (
        lambda p, s, x: (
            jnp.einsum("hi,hio->ho", x.reshape(2, 3), p["w"].reshape(2, 3, 4)).sum(0) @ p["o"]
        ),
        4,
    ),
    "tiled": (lambda p, s, x: jnp.tile(relu(x @ p["w"]), 2)[2:6] @ p["v"] @ p["o"], 8),
    "sorted": (lambda p, s, x: jnp.sort(relu(x @ p["w"])) @ p["o"], 1),
    "summed": (lambda p, s, x: jnp.cumsum(relu(x @ p["w"])) @ p["o"], 1),
    "gathered": (lambda p, s, x: relu(x @ p["w"])[np.array([0, 2, 2, 1])] @ p["o"], 1),
    "cut": (lambda p, s, x: jnp.minimum(relu(x @ p["w"]), 6.0) @ p["o"], 0),
    "mixed": (lambda p, s, x: (relu(x @ p["w"]) @ jnp.ones((4, 4))) @ p["o"], 1),
    "shifted": (lambda p, s, x: relu(x @ p["w"] - s["mean"]) @ p["o"], 4),
    "divided": (lambda p, s, x: relu(x @ p["w"]) / s["mean"] @ p["o"], 4),
    "token": (lambda p, s, x: relu(jnp.stack([x @ p["w"], p["b"]]) @ p["v"]).sum(0) @ p["o"], 8),
    "selected": (lambda p, s, x: jnp.where(x @ p["w"] > 0, p["b"], 0) @ p["o"], 8),
    "shared": (lambda p, s, x: (relu(x @ p["w"]) - relu(x[::-1] @ p["w"])) @ p["o"], 4),
    "summed_weights": (lambda p, s, x: relu(x @ (p["w"] + p["w"][::-1]) + p["b"]) @ p["o"], 4),
    "constant_added": (lambda p, s, x: relu((x @ p["w"]) * (1 + p["g"])) @ p["o"], 4),
    "argmax": (lambda p, s, x: relu(h := x @ p["w"]) @ p["o"] + x[jnp.argmax(h)] * 0, 1),
}
REFUSED = {
    "two_parameters": (lambda p, s, x: relu(x @ (p["w"] @ p["v"])) @ p["o"], "two parameters"),
    "gated": (lambda p, s, x: (relu(x @ p["w"]) * (x[:4] * p["g"])) @ p["o"], "both have hidden"),
    "shared": (
        lambda p, s, x: (h := relu(x @ p["w"])) @ p["o"] + h[::-1] @ p["o"],
        r"parameter \['o'\] enters several operations",
    ),
    "parameter_as_image": (
        lambda p, s, x: conv(p["w"][..., None], image(x)[..., None]).mean((0, 1)) @ p["o"][:1],
        "a parameter that is no kernel",
    ),
    "softmax": (lambda p, s, x: jax.nn.softmax(x @ p["w"]) @ p["o"], "depends on parameter"),
}


class Noting(dict):
    """Parameters, of which those that are asked for are noted."""

    def __getitem__(self, name):
        self.used.add(name)
        return super().__getitem__(name)


def arrays(fn):
    """Parameters that a program uses, statistics and examples."""
    rng = np.random.default_rng(0)
    shapes = {"w": (6, 4), "v": (4, 4), "b": (4,), "g": (4,), "o": (4, 2)}
    shapes |= {"k": (3, 3, 1, 4), "d": (3, 3, 1, 4)}
    params = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
    stats, xs = {"mean": jnp.asarray(rng.uniform(1, 2, 4))}, jnp.asarray(rng.normal(size=(9, 6)))
    noting = Noting(params)
    noting.used = set()
    fn(noting, stats, xs[0])
    return {name: params[name] for name in noting.used}, stats, xs


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_rescaling_of_units_leaves_the_function_and_those_of_layers_are_among_them(name):
    fn, num = PROGRAMS[name]
    params, stats, xs = arrays(fn)
    units = analyze_units(fn, params, stats, xs[0])
    assert units.num == num
    x = np.concatenate([[0.0], np.random.default_rng(1).normal(size=num)])
    scale = lambda a, head, tail: a * np.exp(x[head] - x[tail])  # noqa: E731
    moved = jax.tree.map(scale, params, units.heads, units.tails)
    moved_stats = jax.tree.map(lambda a, unit: a * np.exp(x[unit]), stats, units.statistics)
    outputs = jax.vmap(fn, (None, None, 0))
    want = outputs(params, stats, xs)
    np.testing.assert_allclose(outputs(moved, moved_stats, xs), want, rtol=1e-11, atol=1e-11)
    # Each unit changes something.
    heads, tails = flat(units.heads), flat(units.tails)
    assert set(heads) | set(tails) | {0} == set(range(num + 1))
    # Entry by entry, the exponents of layers are differences of scales of units.
    layers = analyze(fn, params, stats, xs[0]).exponents
    sizes = [leaf.size for leaf in jax.tree.leaves(params)]
    wanted = np.repeat(layers, sizes, axis=0)
    slopes = jax.vmap(jax.jacobian(fn), (None, None, 0))(params, stats, xs)
    slopes = [np.abs(leaf).max((0, 1)) for leaf in jax.tree.leaves(slopes)]
    wanted *= (flat(slopes) > 0)[:, None]  # where an entry matters at all
    steps = (np.eye(num + 1)[heads] - np.eye(num + 1)[tails])[:, 1:] * (flat(slopes) > 0)[:, None]
    found = np.linalg.lstsq(steps, wanted, rcond=None)[0]
    np.testing.assert_allclose(steps @ found, wanted, atol=1e-9)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_understood_is_refused_by_name(name):
    fn, message = REFUSED[name]
    params, stats, xs = arrays(fn)
    with pytest.raises(StructureError, match=message) as refused:
        analyze_units(fn, params, stats, xs[0])
    assert "\n" not in str(refused.value)


def example(network):
    return lambda params, stats, x: network.evaluate(params, stats, x[None])[0]


@pytest.mark.slow
def test_units_of_an_mlp_are_its_neurons():
    network = mlp()
    params, stats = generic_point(network)
    units = analyze_units(example(network), params, stats, tiny_dataset().train.images[0])
    first, second = units.heads["dense1"]["bias"], units.heads["dense2"]["bias"]
    assert units.num == 9 and sorted([*first, *second]) == list(range(1, 10))
    last = np.zeros(3, int)
    for name, tails, heads in (
        ("dense1", np.zeros(72, int), first),
        ("dense2", first, second),
        ("dense3", second, last),
    ):
        tails, heads = np.meshgrid(tails, heads, indexing="ij")
        np.testing.assert_array_equal(units.tails[name]["kernel"], tails)
        np.testing.assert_array_equal(units.heads[name]["kernel"], heads)
    assert not units.heads["dense3"]["bias"].any() and not flat(units.tails)[:5].any()


@pytest.mark.slow
@pytest.mark.parametrize("lowering", ["auto", "conv"])
def test_units_of_a_cnn_are_channels_before_and_behind_batch_norm(lowering):
    network = cnn(lowering)
    params, stats = generic_point(network)
    heads, tails = (
        units := analyze_units(example(network), params, stats, tiny_dataset().train.images[0])
    )[2:0:-1]
    assert units.num == 3 + 3 + 4 + 4 + 5
    for i, size in ((1, 3), (2, 4)):
        conv, norm, mean = heads[f"conv{i}"], heads[f"norm{i}"], units.statistics[f"norm{i}"]
        assert len(set(conv["bias"])) == len(set(norm["scale"])) == size
        np.testing.assert_array_equal(mean["mean"], conv["bias"])
        np.testing.assert_array_equal(tails[f"norm{i}"]["scale"], conv["bias"])
        np.testing.assert_array_equal(norm["bias"], norm["scale"])
        assert (conv["kernel"] == conv["bias"]).all() and not mean["var"].any()
    # Kernel (2, 2, 3, 4) of the second, and 4 positions of each of its channels in the dense layer.
    wanted = np.broadcast_to(heads["norm1"]["scale"][:, None], (2, 2, 3, 4))
    np.testing.assert_array_equal(tails["conv2"]["kernel"], wanted)
    wanted = np.tile(heads["norm2"]["scale"], 4)[:, None]
    np.testing.assert_array_equal(tails["dense1"]["kernel"], np.broadcast_to(wanted, (16, 5)))
