"""The zoo: parameter counts as published, curvature against dense references, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree

from jaxsharp import curvature, data, measures, networks
from jaxsharp.core.memory import budget
from jaxsharp.curvature.structure import read
from jaxsharp.measures.minimum.sharpness import group_traces
from jaxsharp.networks import ModelSpec, recompute_statistics, zoo
from jaxsharp.networks.zoo import transformers
from tests.tinynets import generic_point, tiny_dataset

# Of pixels that are 0 or 1, which no precision rounds.
IMAGES = tiny_dataset(num=11, shape=(4, 4, 2))
IMAGES = IMAGES._replace(
    train=IMAGES.train._replace(images=IMAGES.train.images // 128), max_pixel=1
)
TEXT = data.from_text("abcabdabcaca" * 6, length=5)
TINY = {
    "resnet": zoo.resnet((2, 3), 1),
    "projected": zoo.resnet((8, 9), 1, projection=True),
    "wide_resnet": zoo.wide_resnet(2, 1, stem=2, widths=(1, 2)),
    "vgg": zoo.vgg(((2,), (3,))),
    "vit": zoo.vit(4, 1, 2, patch=2),
    "gpt": zoo.gpt(4, 1, 2),
}
POOLED = ("resnet", "wide_resnet", "vgg")  # which are piecewise linear


def tiny(name, lowering="auto"):
    """A tiny network and its data."""
    inputs, dataset = ("tokens", TEXT) if name == "gpt" else ("images", IMAGES)
    spec = ModelSpec(name, TINY[name], inputs=inputs)
    return networks.load(spec, dataset, lowering=lowering), dataset


def block(width, bias):
    """Parameters of a transformer's block: 12 width^2, and its vectors."""
    return 12 * width**2 + (13 if bias else 2) * width


COUNTS = {
    "resnet_20": 269_722,  # 0.27 M (He et al. 2016, table 6)
    "resnet_18": 11_173_962,
    "wide_resnet_16_4": 2_748_890,  # 2.7 M (Zagoruyko and Komodakis 2016, table 4)
    "vgg_11": 9_231_114,
    "vit": (4 * 4 * 3 + 1 + 64) * 128 + 6 * block(128, bias=True) + 2 * 128 + 129 * 10,
    "gpt": (65 + 64) * 128 + 4 * block(128, bias=False) + 128,  # 0.80 M without places
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTS)
def test_number_of_parameters_is_the_published_one(name):
    dataset = tiny_dataset(num=2, shape=(32, 32, 3))._replace(num_classes=10)
    if name == "gpt":
        tokens = np.zeros((2, 64), np.int32)
        dataset = data.from_arrays((tokens, tokens), (tokens, tokens), num_classes=65)
    params, _ = jax.eval_shape(networks.load(name, dataset).init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == COUNTS[name]


def dense_hessian(network, params, stats, batch):
    """The Hessian of the loss as a matrix, its parameters in the order of the leaves."""
    flat, unflatten = ravel_pytree(params)
    loss = network.frozen_loss(stats)
    return np.asarray(jax.jit(jax.hessian(lambda flat: loss(unflatten(flat), batch)))(flat))


def block_traces(hessian, params):
    """The traces of the diagonal blocks of the leaves."""
    ends = np.cumsum([leaf.size for leaf in jax.tree.leaves(params)])[:-1]
    return np.array([part.sum() for part in np.split(np.diag(hessian), ends)])


@pytest.mark.slow
@pytest.mark.parametrize("name", [*POOLED, "vit", "gpt"])
def test_curvature_is_that_of_the_dense_hessian(x64, name):
    network, dataset = tiny(name)
    params, stats = generic_point(network)
    batch = tuple(dataset.train)
    dense = dense_hessian(network, params, stats, batch)
    hessian = curvature.hessian(network.frozen_loss(stats), params, batch)
    key = jax.random.key(0)
    top = curvature.top_eigenpairs(hessian, params, key=key, k=1, tol=1e-9)
    np.testing.assert_allclose(top.values[0], np.linalg.eigvalsh(dense)[-1], rtol=1e-7)
    if name not in POOLED:
        trace = curvature.xtrace(hessian, params, key=key, rtol=0.0, max_products=2 * len(dense))
        np.testing.assert_allclose(trace.mean, np.trace(dense), rtol=1e-6)
        with pytest.warns(UserWarning, match=REFUSED[name]):
            measures.measure(network, params, stats, batch, ["minimum_sharpness"], key=key)
        return
    static = (network, None, budget())
    traces = group_traces(*static, params, stats, batch[0])
    want = block_traces(dense, params)
    np.testing.assert_allclose(jax.tree.leaves(traces), want, rtol=1e-7, atol=1e-7 * want.sum())
    least = measures.minimum_sharpness(network, params, stats, batch)
    exponents, change = rescaling(network, params, stats, batch[0])
    assert least.attained and exponents.shape[1] == SCALES[name]
    alike = measures.minimize_over_scales(want, exponents)
    np.testing.assert_allclose(least.value, alike.value, rtol=1e-7)
    same, moved = (network.evaluate(*each, batch[0]) for each in ((params, stats), change))
    np.testing.assert_allclose(moved, same, rtol=1e-9)


# Counted by hand. Each BatchNorm behind a convolution has a scale of its input, each in front of
# one, or of the last layer, one of its output, and each residual stream one: that of the ResNet,
# whose shortcuts have no parameters, is one; that of the WideResNet is two, by the projection.
SCALES = {"resnet": 5 + 2 + 1, "wide_resnet": 2 + 5 + 2, "vgg": 2 + 2}


REFUSED = {
    "vit": r"no minimum_sharpness: square .*\['patches1'\].* is not piecewise linear",
    "gpt": r"no minimum_sharpness: gather .*\['tokens1'\].* may not be piecewise linear",
}


def rescaling(network, params, stats, images):
    """Exponents of a network's rescalings, and what one of them makes of it, statistics too."""
    found = read(
        lambda both, _, x: network.evaluate(*both, x[None])[0], (params, stats), {}, images[0]
    )
    leaves, structure = jax.tree.flatten((params, stats))
    factors = np.exp(
        found.exponents @ np.random.default_rng(0).normal(size=found.exponents.shape[1])
    )
    moved = [leaf * factor for leaf, factor in zip(leaves, factors, strict=True)]
    rows = len(jax.tree.leaves(params))
    return found.exponents[:rows], jax.tree.unflatten(structure, moved)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet", "projected", "wide_resnet"])
def test_recomputed_statistics_are_those_of_the_whole_set(x64, name):
    network, dataset = tiny(name)
    params, stats = generic_point(network)
    images = dataset.train.images
    exact = jax.jit(lambda *args: recompute_statistics(network, *args, chunk_size=4))(
        *(params, stats, images)
    )
    by_batch, _ = network.apply(params, stats, images, True)  # normalized by the whole set
    np.testing.assert_allclose(network.evaluate(params, exact, images), by_batch, rtol=1e-9)
    assert np.abs(network.evaluate(params, stats, images) - by_batch).max() > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("name", ["projected", "vgg"])
def test_all_lowerings_agree_in_value_and_gradient(x64, name):
    params, stats = generic_point(tiny(name)[0])

    def gradient(lowering):
        network, dataset = tiny(name, lowering)

        def loss(params):
            return jnp.square(network.apply(params, stats, dataset.train.images, True)[0]).sum()

        return jax.jit(jax.value_and_grad(loss))(params)

    want = gradient("conv")
    for lowering in ("patches", "tiles"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10),
            *(gradient(lowering), want),
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_each_can_be_trained(name):
    network, dataset = tiny(name, "tiles")
    params, stats = network.init(jax.random.key(0))
    optimizer = optax.adam(0.02)

    @jax.jit
    def trained(params, stats, batch):
        def step(state, _):
            params, stats, opt_state = state

            def loss(params):
                outputs, new = network.forward(params, stats, batch[0], None)
                return network.loss.mean(outputs, batch[1]), new

            (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(params)
            updates, opt_state = optimizer.update(grads, opt_state)
            return (optax.apply_updates(params, updates), stats, opt_state), value

        state = params, stats, optimizer.init(params)
        (_, stats, _), losses = jax.lax.scan(step, state, None, 200)
        return stats, losses

    new, losses = trained(params, stats, tuple(dataset.train))
    np.testing.assert_allclose(losses[0], np.log(3 if name != "gpt" else 4), atol=0.8)
    assert losses[-1] < 0.6 * losses[0]
    changes = jax.tree.map(lambda a, b: np.abs(a - b).max(), new, stats)
    assert all(change > 0.01 for change in jax.tree.leaves(changes))


@pytest.mark.slow
def test_patches_are_the_squares_of_an_image():
    layer = transformers.Patches((4, 6, 2), 2, 8, nnx.Rngs(0))
    layer.dense.kernel[...], layer.places[...] = jnp.eye(8), 100 * jnp.arange(6.0)[:, None]
    x = np.random.default_rng(0).normal(size=(3, 4, 6, 2))
    want = [
        x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].reshape(3, 8) + 100 * (3 * i + j)
        for i in range(2)
        for j in range(3)
    ]
    np.testing.assert_allclose(layer(jnp.asarray(x)), np.stack(want, 1), rtol=1e-6)


@pytest.mark.slow
def test_attention_is_the_sum_over_the_tokens_up_to_a_place(x64):
    layer = transformers.Attention(4, 2, causal=True, bias=True, std=0.5, rngs=nnx.Rngs(0))
    layer.inputs.kernel[...] = 20 * layer.inputs.kernel[...]
    x = np.random.default_rng(0).normal(size=(1, 5, 4))
    made = np.asarray(layer.inputs(jnp.asarray(x)))[0]
    queries, keys, values = (made[:, 4 * i : 4 * i + 4].reshape(5, 2, 2) for i in range(3))
    rows = np.zeros((5, 2, 2))
    for t, head in np.ndindex(5, 2):
        weights = np.exp(keys[: t + 1, head] @ queries[t, head] / 2**0.5)
        rows[t, head] = weights @ values[: t + 1, head] / weights.sum()
    want = layer.outputs(jnp.asarray(rows.reshape(1, 5, 4)))
    np.testing.assert_allclose(layer(jnp.asarray(x)), want, rtol=1e-5)


@pytest.mark.slow
def test_gpt_sees_no_character_that_it_predicts():
    network, dataset = tiny("gpt")
    params, stats = generic_point(network, dtype=jnp.float32)
    tokens = dataset.train.images[:2]
    changed = tokens.copy()
    changed[:, 3] = (tokens[:, 3] + 1) % 4
    a, b = (np.asarray(network.evaluate(params, stats, x)) for x in (tokens, changed))
    np.testing.assert_array_equal(a[:, :3], b[:, :3])
    assert np.abs(a - b)[:, 3:].min() > 0


def tokens(inputs, targets, **options):
    """A data set of integers."""
    both = np.asarray(inputs), np.asarray(targets)
    return data.from_arrays(both, both, name="mine", **options)


REAL = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
WRONG = {
    "images of shape (28, 28, 1) are too small for vgg_11 (32 x 32 at": ("vgg_11", (28, 28, 1)),
    "images of shape (2, 8, 1) are too small for vit (4 x 4 at least)": ("vit", (2, 8, 1)),
    "vit: images of shape (8, 10, 1) cannot be cut into patches of 4 x 4": ("vit", (8, 10, 1)),
    "gpt takes tokens; the inputs of tiny are images of shape (n, 8, 8, 1), for which valid are "
    "small_mlp": ("gpt", (8, 8, 1)),
    "resnet_20 takes images; the inputs of mine are integers of shape (n, 2), for which valid are "
    "gpt (pixels must be": ("resnet_20", tokens([[0, 1], [1, 0]], [[0, 1], [1, 0]])),
    "vit takes images; the inputs of own are real numbers of shape (n, 4), for which valid are "
    "small_mlp, mlp_1, mlp": ("vit", data.from_arrays((REAL, REAL[:, 0]), (REAL, REAL[:, 0]))),
    "gpt takes tokens of shape (n, length); the inputs of mine have shape (n, 1, 2)": (
        *("gpt", tokens([[[0, 1]], [[1, 0]]], [0, 1])),
    ),
    "gpt gives the logits of a class for each token; the targets of mine are of int32 and shape "
    "(n,), and must be integers of shape (n, 2)": ("gpt", tokens([[0, 1], [1, 0]], [0, 1])),
    "gpt takes tokens from 0 to 1, the classes of the targets; those of mine lie from 0 to 7": (
        *("gpt", tokens([[0, 7], [1, 0]], [[0, 1], [1, 0]])),
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_inputs_that_a_network_cannot_take_are_refused_by_its_name(message):
    name, given = WRONG[message]
    dataset = tiny_dataset(num=2, shape=given) if type(given) is tuple else given
    with pytest.raises(ValueError) as refused:
        networks.load(name, dataset)
    assert str(refused.value).startswith(message) and "\n" not in str(refused.value)
