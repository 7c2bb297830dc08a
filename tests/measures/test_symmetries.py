"""Every symmetry of SYMMETRIES on every measure of the registry: what is claimed holds, all else
breaks."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsharp.core import budget
from jaxsharp.curvature import analyze
from jaxsharp.measures import MEASURES, SYMMETRIES, Options, Trained
from jaxsharp.measures.catalogue import compiled
from jaxsharp.measures.spectrum import densities
from jaxsharp.networks import Network
from tests.tinynets import cnn, generic_point, mlp, tiny_dataset

# Noise and rises at which more is seen than the loss itself, and probes that agree.
OPTIONS = Options(
    eigenvalue_tol=1e-5,
    radius=0.01,
    num_perturbations=60,
    lpf_sigma=0.5,
    rise=2.0,
    num_probes=400,
    density_probes=600,
    density_steps=12,
)
SHAPE = (6, 6, 2)
NETWORKS = {"mlp": mlp, "cnn": cnn}
SEEDS = {"mlp": 21, "cnn": 0}  # of layer rescalings by factors from 0.03 to 10
ROUNDING = 1e-8  # relative, of measures in float64
VISIBLE = 1e-2  # relative change of a measure that does not claim a symmetry
REORDERED = ("permutation", "example_order")
# Hidden layers: the arrays whose axis holds its units, by what a rescaling of units does to them.
# A running mean grows with what it is a mean of; a running variance is kept, as of the others.
FIRST, LAST = (
    {
        1: [("params", f"dense{i}", "kernel", 1), ("params", f"dense{i}", "bias", 0)],
        -1: [("params", f"dense{i + 1}", "kernel", 0)],
    }
    for i in (1, 2)
)
NORMED = {
    1: [
        ("params", "conv1", "kernel", 3),
        ("params", "conv1", "bias", 0),
        ("stats", "norm1", "mean", 0),
    ],
    -1: [("params", "norm1", "scale", 0)],
    0: [
        ("params", "norm1", "bias", 0),
        ("stats", "norm1", "var", 0),
        ("params", "conv2", "kernel", 2),
    ],
}
HIDDEN = {"mlp": [FIRST, LAST], "cnn": [NORMED, FIRST]}

pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.fixture(scope="module", autouse=True)
def standard_errors_alone():
    """What few steps do not resolve of a density is the same in each order of the same things."""

    def as_many(diagonal, below):
        yield densities.gauss_rules(diagonal, below)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(densities, "rules_of_fewer_steps", as_many)
        yield


@cache
def affine(name):
    """A tiny network whose inputs bring along what its logits are multiplied by and moved by.

    So all symmetries are of one network, and of one program.
    """
    network = NETWORKS[name]()

    def images(inputs):
        return inputs[:, :-2].reshape(-1, *SHAPE)

    def apply(params, stats, inputs, train):
        logits, stats = network.apply(params, stats, images(inputs), train)
        return logits * inputs[:, -2:-1] + inputs[:, -1:], stats

    def moments(params, stats, centers, inputs):
        return network.moments(params, stats, centers, images(inputs))

    return Network(network.init, apply, moments if name == "cnn" else None)


@cache
def setting(name):
    """A network, its parameters, statistics and initial parameters, and data.

    The labels are those that the network predicts, as of one that was trained: the Hessian is
    nearly that of Gauss and Newton, and random directions agree on it.
    """
    network, images = affine(name), tiny_dataset(num=12, shape=SHAPE).train.images
    flat = images.reshape(len(images), -1).astype(float)
    inputs = np.hstack([flat, np.ones((len(flat), 1)), np.zeros((len(flat), 1))])
    params, stats = generic_point(network)
    initial, _ = generic_point(network, seed=1)
    labels = np.asarray(network.evaluate(params, stats, inputs).argmax(1))
    return network, Trained(params, stats, initial), (inputs, labels)


def recorded(measure, network, at, batch, memory):
    arguments = at, batch, jax.random.key(0)
    found = jax.device_get(compiled(measure.arrays, network, OPTIONS, memory, *arguments))
    return measure.record(network, at, batch, OPTIONS, found)


@cache
def before(name, network):
    return recorded(MEASURES[name], *setting(network), budget())


def changed(at, place, change):
    """What ``at`` is with one array changed; an array of parameters at initialization too."""
    kind, layer, name = place

    def with_change(tree):
        return {**tree, layer: {**tree[layer], name: change(tree[layer][name])}}

    if kind == "stats":
        return at._replace(stats=with_change(at.stats))
    return at._replace(params=with_change(at.params), initial=with_change(at.initial))


def over_units(name, at, change):
    """``change(array, axis, side, rng)`` of all arrays of all hidden layers, one rng a layer."""
    for seed, layer in enumerate(HIDDEN[name]):
        for side, places in layer.items():
            for *place, axis in places:

                def array(leaf, axis=axis, side=side, seed=seed):
                    return change(leaf, axis, side, np.random.default_rng(seed))

                at = changed(at, place, array)
    return at


def layer_rescaling(name, at, batch, memory):
    network = affine(name)
    found = analyze(
        lambda params, stats, x: network.evaluate(params, stats, x[None])[0],
        *(at.params, at.stats, batch[0][0]),
    )
    # By a direction that is not of the basis, which differs from machine to machine.
    wanted = np.random.default_rng(SEEDS[name]).normal(size=len(found.exponents))
    v = np.linalg.pinv(found.exponents) @ wanted

    def scaled(tree, exponents):
        leaves, treedef = jax.tree.flatten(tree)
        factors = np.exp(4 * exponents @ v)
        return treedef.unflatten([a * c for a, c in zip(leaves, factors, strict=True)])

    moved = Trained(
        scaled(at.params, found.exponents),
        scaled(at.stats, found.statistics),
        scaled(at.initial, found.exponents),
    )
    return moved, batch, memory


def unit_rescaling(name, at, batch, memory):
    def scaled(leaf, axis, side, rng):
        factors = np.exp(2 * side * rng.normal(size=leaf.shape[axis]))
        return leaf * factors.reshape(-1, *[1] * (leaf.ndim - axis % leaf.ndim - 1))

    return over_units(name, at, scaled), batch, memory


def permutation(name, at, batch, memory):
    def permuted(leaf, axis, side, rng):
        order = np.roll(rng.permutation(leaf.shape[axis]), 1)
        return jnp.take(leaf, order, axis=axis)

    return over_units(name, at, permuted), batch, memory


def logit_shift(name, at, batch, memory):
    return at, (batch[0] + np.eye(batch[0].shape[1])[-1] * 3.0, batch[1]), memory


def logit_scale(name, at, batch, memory):
    return at, (batch[0] + np.eye(batch[0].shape[1])[-2] * 2.0, batch[1]), memory


def example_order(name, at, batch, memory):
    return at, tuple(x[::-1] for x in batch), memory


def chunking(name, at, batch, memory):
    return at, batch, replace(memory, chunk_bytes=1)  # one example at a time


TRANSFORMS = {
    fn.__name__: fn
    for fn in (
        *(layer_rescaling, unit_rescaling, permutation),
        *(logit_shift, logit_scale, example_order, chunking),
    )
}


def compare(measure, symmetry, old, new):
    """Fail unless two records differ by no more than is due to errors, or clearly if not claimed.

    Both are of one key, and so of the same draws. What is drawn knows of neither units nor
    examples, so that in another order of these the measure is the same within standard errors.
    """
    change, size = abs(new.value - old.value), max(abs(old.value), abs(new.value))
    errors = 5 * np.hypot(*np.nan_to_num([old.error, new.error]))
    if "standard error" in measure.error and symmetry not in REORDERED:
        errors = 0
    assert errors < 3 * size, "the errors hide what may be; take more directions"
    if symmetry in measure.invariances:
        holds = change <= errors + ROUNDING * size
        assert holds, f"{symmetry} is claimed, and {old.value} becomes {new.value}"
    else:
        breaks = change > errors + VISIBLE * size
        assert breaks, f"{symmetry} is not claimed, but {old.value} stays {new.value}"


@pytest.mark.slow
@pytest.mark.parametrize("symmetry", SYMMETRIES)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_is_unchanged_by_what_it_claims_and_by_nothing_else(name, network, symmetry):
    of, at, batch = setting(network)
    moved = TRANSFORMS[symmetry](network, at, batch, budget())
    old, new = before(name, network), recorded(MEASURES[name], of, *moved)
    compare(MEASURES[name], symmetry, old, new)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("symmetry", SYMMETRIES)
def test_a_symmetry_does_to_the_logits_what_it_says(network, symmetry):
    """And changes what it is to change."""
    of, at, batch = setting(network)
    moved, (inputs, _), memory = TRANSFORMS[symmetry](network, at, batch, budget())
    want = of.evaluate(at.params, at.stats, batch[0])
    found = of.evaluate(moved.params, moved.stats, inputs)
    want = {"logit_shift": want + 3.0, "logit_scale": 3 * want, "example_order": want[::-1]}.get(
        symmetry, want
    )
    np.testing.assert_allclose(found, want, rtol=1e-9, atol=1e-12)
    if symmetry in ("layer_rescaling", "unit_rescaling", "permutation"):
        for old, new in ((at.params, moved.params), (at.initial, moved.initial)):
            differ = [
                np.abs(a - b).max()
                for a, b in zip(*map(jax.tree.leaves, (old, new)), strict=True)
                if a.ndim
            ]
            assert sum(d > 1e-3 for d in differ) >= 3
    elif symmetry == "chunking":
        assert memory != budget()
    else:
        assert np.abs(inputs - batch[0]).max() > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["minimum_sharpness", "random_perturbation"])
def test_claims_of_too_much_and_of_too_little_fail(name):
    old = before(name, "mlp")
    new = old._replace(value=1.5 * old.value)
    honest = MEASURES[name]
    for symmetry in ("layer_rescaling", "logit_scale", "chunking"):
        everything = honest._replace(invariances=frozenset(SYMMETRIES))
        with pytest.raises(AssertionError, match=f"{symmetry} is claimed"):
            compare(everything, symmetry, old, new)
        with pytest.raises(AssertionError, match=f"{symmetry} is not claimed"):
            compare(honest._replace(invariances=frozenset()), symmetry, old, old)
