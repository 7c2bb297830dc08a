"""What sharpness is compared with, against plain NumPy in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxsharp import data, measures, networks
from jaxsharp.core import Budget, budget
from jaxsharp.measures import baselines
from tests.references import mean_over_examples
from tests.tinynets import cnn, generic_point, tiny_dataset

SMALL = Budget(1, 1, 1, vmapped=False)  # an example at a time
PASSES = {"gradient_norm": 2, "margin": 1}


def taken(network, arguments, names=tuple(baselines.MEASURES), **options):
    return measures.measure(network, *arguments, names, key=jax.random.key(0), **options)


def plain(network, params, stats, batch, initial):
    """Every baseline as its definition says, in NumPy."""
    loss, flat = network.frozen_loss(stats), ravel_pytree(params)[0]
    gradient = mean_over_examples(partial(jax.jit(jax.grad(loss)), params), batch)
    outputs = np.asarray(network.evaluate(params, stats, batch[0]))
    margins = [row[y] - np.delete(row, y).max() for row, y in zip(outputs, batch[1], strict=True)]
    return {
        "gradient_norm": np.linalg.norm(ravel_pytree(gradient)[0]),
        "parameter_norm": np.linalg.norm(flat),
        "distance_from_initialization": np.linalg.norm(flat - ravel_pytree(initial)[0]),
        "margin": np.percentile(margins, 10),
        "num_parameters": len(flat),
    }


@pytest.mark.slow
@pytest.mark.parametrize("memory", [budget(), SMALL])
def test_values_are_those_of_the_definitions(x64, memory):
    network, initial = cnn(), generic_point(cnn(), seed=1)[0]
    arguments = (*generic_point(network), tuple(tiny_dataset(num=13).train))
    want = plain(network, *arguments, initial)
    found = taken(network, arguments, initial=initial, memory=memory)
    assert list(found) == list(want)
    for key, record in found.items():
        np.testing.assert_allclose(record.value, want[key], rtol=1e-10)
        assert record.finished and record.exact and record.directions == 0
        assert (record.cost, record.examples) == (PASSES.get(key, 0), 13 if key in PASSES else 0)


@pytest.fixture(scope="module")
def learned():
    """A network that has learned the digits so well that its examples' gradients nearly cancel."""
    digits = data.load("digits")
    network = networks.load("small_mlp", digits)
    start, stats = network.init(jax.random.key(0))
    batch = digits.train.images[:100], digits.train.labels[:100]
    gradient = jax.grad(network.frozen_loss(stats))

    @jax.jit
    def trained(params, batch):
        def step(params, _):
            by = gradient(params, batch)
            return jax.tree.map(lambda p, g: p - 0.5 * g, params, by), None

        return jax.lax.scan(step, params, length=300)[0]

    return network, (trained(start, batch), stats, batch), start


@pytest.mark.slow
def test_the_error_holds_the_rounding_of_single_precision(learned):
    network, arguments, start = learned
    single = taken(network, arguments, initial=start)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: np.asarray(a, np.float64), (arguments[:2], start))
        double = taken(network, (*wide[0], arguments[2]), initial=wide[1])
    for name, record in single.items():
        off = abs(record.value - double[name].value)
        assert off <= record.error, name
        assert record.error <= 1e-3 * abs(record.value) or name == "margin", name
        assert double[name].error <= 1e-8 * record.error or name == "num_parameters"
    assert single["gradient_norm"].value < 2e-2 and single["num_parameters"].error == 0


@pytest.mark.slow
def test_initial_parameters_are_asked_for_where_the_measure_needs_them(learned):
    network, arguments, _ = learned
    name = "distance_from_initialization"
    with pytest.warns(UserWarning, match=r"no distance_from_init.*give them as initial="):
        found = taken(network, arguments, [name, "parameter_norm"])
    assert np.isnan(found[name].value) and found["parameter_norm"].finished
    assert taken(network, arguments, [name], initial=arguments[0])[name].value == 0


def test_margins_of_tokens_are_those_of_every_prediction(x64):
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5, 3)))
    labels = np.random.default_rng(1).integers(0, 3, (4, 5))
    found = baselines.margins(logits, labels)
    want = [
        row[y] - np.delete(row, y).max()
        for row, y in zip(np.reshape(logits, (-1, 3)), labels.ravel(), strict=True)
    ]
    np.testing.assert_allclose(found, want, rtol=1e-12)
    traced = jax.jit(baselines.margins)(logits, labels)
    np.testing.assert_allclose(traced, want, rtol=1e-12)


def test_a_label_that_is_no_class_has_no_margin(x64):
    logits, labels = jnp.eye(3), np.array([0, 1, 3])
    with pytest.raises(ValueError, match="labels hold 3; the classes are 0 to 2"):
        baselines.margins(logits, labels)
    assert list(np.isnan(jax.jit(baselines.margins)(logits, labels))) == [False, False, True]


@pytest.mark.parametrize(
    ("outputs", "labels", "named"),
    [
        (jnp.ones((4, 1)), np.zeros(4, int), "a margin needs at least 2 classes"),
        (jnp.ones((4, 3)), np.zeros((4, 3)), "labels are float64"),
    ],
)
def test_outputs_without_classes_have_no_margin(x64, outputs, labels, named):
    with pytest.raises(ValueError, match=named):
        baselines.margins(outputs, labels)


@pytest.mark.slow
def test_runs_of_a_group_are_measured_side_by_side(learned):
    network, (params, stats, batch), start = learned
    few = tuple(jnp.asarray(part[:20]) for part in batch)
    runs = measures.Trained(params, stats, start), measures.Trained(start, stats, params)

    def all_of(at):
        taken = {name: m.arrays for name, m in baselines.MEASURES.items()}
        options = measures.Options()
        return {n: f(network, at, few, None, options, SMALL) for n, f in taken.items()}

    both = jax.jit(jax.vmap(all_of))(jax.tree.map(lambda *leaves: jnp.stack(leaves), *runs))
    alone = jax.jit(all_of)
    for i, run in enumerate(runs):
        found = jax.tree.map(lambda row, i=i: row[i], both)
        for row, want in zip(*map(jax.tree.leaves, (found, alone(run))), strict=True):
            np.testing.assert_allclose(row, want, rtol=1e-5)
