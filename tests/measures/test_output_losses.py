"""Minimum sharpness for the loss that a network was trained with, and what does not fit it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxsharp.core import budget
from jaxsharp.curvature import exact_traces, softmax_factors
from jaxsharp.measures import OUTPUT_LOSSES, minimize_over_scales, minimum_sharpness
from jaxsharp.measures.minimum.sharpness import group_traces
from jaxsharp.networks import Network
from tests.references import dense_hessian

LOSSES = {
    "cross_entropy": lambda f, y: -jax.nn.log_softmax(f)[jnp.arange(len(f)), y],
    "binary_cross_entropy": lambda f, y: jnp.sum(jnp.logaddexp(0, f) - y * f, 1),
    "squared_error": lambda f, y: jnp.sum((f - y) ** 2, 1),
}


def apply(params, stats, x, train):
    hidden = jax.nn.relu(x @ params["w1"] + params["b1"])
    return hidden @ params["w2"] + params["b2"], stats


NETWORK = Network(lambda key: None, apply)


def setting(outputs):
    rng = np.random.default_rng(outputs)
    shapes = {"b1": (6,), "b2": (outputs,), "w1": (4, 6), "w2": (6, outputs)}
    params = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
    return params, jnp.asarray(rng.normal(size=(17, 4)))


def targets_of(loss, outputs):
    rng = np.random.default_rng(7)
    if loss == "cross_entropy":
        return rng.integers(0, outputs, 17)
    draw = rng.random((17, outputs))
    return (draw < 0.4).astype(float) if loss == "binary_cross_entropy" else draw


@pytest.mark.slow
@pytest.mark.parametrize("outputs", [1, 2, 3])
@pytest.mark.parametrize("loss", OUTPUT_LOSSES)
def test_the_value_is_the_least_trace_of_that_loss(x64, loss, outputs):
    if (loss, outputs) == ("cross_entropy", 1):
        pytest.skip("is refused")
    params, x = setting(outputs)
    batch = x, targets_of(loss, outputs)
    dense = dense_hessian(
        lambda p, batch: jnp.mean(LOSSES[loss](apply(p, {}, batch[0], False)[0], batch[1])),
        *(params, batch),
    )
    sizes = [leaf.size for leaf in jax.tree.leaves(params)]
    diagonal = np.split(np.diag(dense), np.cumsum(sizes)[:-1])
    blocks = np.array([block.sum() for block in diagonal])
    assert ravel_pytree(params)[0].size == len(dense)
    # Layer 1 (b1, w1) may grow by a scale that shrinks w2; in the order b1, b2, w1, w2.
    want = minimize_over_scales(blocks, [[1.0], [0.0], [1.0], [-1.0]])
    found = minimum_sharpness(NETWORK, params, {}, batch, loss=loss)
    np.testing.assert_allclose(found.value, want.value, rtol=1e-9)
    assert found.attained


def test_a_column_of_targets_may_be_flat(x64):
    params, x = setting(1)
    for loss in ("binary_cross_entropy", "squared_error"):
        targets = targets_of(loss, 1)
        found = [
            minimum_sharpness(NETWORK, params, {}, (x, y), loss=loss).value
            for y in (targets, targets[:, 0])
        ]
        assert found[0] == found[1] > 0


@pytest.mark.parametrize(
    ("loss", "outputs", "targets", "named"),
    [
        ("cross_entropy", 1, np.zeros(17, int), "of one output softmax is constant"),
        ("cross_entropy", 3, np.zeros((17, 3)), "labels are float64 of shape (17, 3)"),
        ("cross_entropy", 3, np.zeros(17), "labels are float64 of shape (17,)"),
        (
            "cross_entropy",
            3,
            np.zeros((17, 1), int),
            "of shape (17, 1); they must be integers of shape (17,)",
        ),
        ("cross_entropy", 3, np.full(17, 3), "labels hold 3; the classes are 0 to 2"),
        ("cross_entropy", 3, np.full(17, -1), "labels hold -1; the classes are 0 to 2"),
        ("binary_cross_entropy", 3, np.zeros(17, int), "targets have shape (17,)"),
        (
            "binary_cross_entropy",
            1,
            np.full(17, 2),
            "targets lie from 2 to 2; they must lie from 0",
        ),
        ("binary_cross_entropy", 1, np.full(17, -1.0), "targets lie from -1.0 to -1.0"),
        ("squared_error", 3, np.zeros(17, int), "targets have shape (17,)"),
        ("squared_error", 2, np.zeros((17, 3)), "targets have shape (17, 3)"),
        ("mse", 3, np.zeros(17, int), "unknown loss 'mse'; valid are"),
    ],
)
def test_what_does_not_fit_the_loss_is_refused(x64, monkeypatch, loss, outputs, targets, named):
    def fail(*_):
        raise AssertionError("nothing is computed")

    monkeypatch.setattr("jaxsharp.measures.minimum.sharpness.group_traces", fail)
    params, x = setting(outputs)
    with pytest.raises(ValueError) as refused:
        minimum_sharpness(NETWORK, params, {}, (x, targets), loss=loss)
    assert named in str(refused.value) and "\n" not in str(refused.value)


def test_outputs_of_other_shapes_are_refused():
    tokens = Network(
        lambda key: None, lambda p, s, x, train: (jnp.ones((len(x), 5, 3)) * p["w"], s)
    )
    arguments = {"w": jnp.ones(())}, {}, (jnp.ones((4, 2)), np.zeros(4, int))
    with pytest.raises(ValueError, match=r"outputs have shape \(4, 5, 3\)"):
        minimum_sharpness(tokens, *arguments)


def test_softmax_of_one_output_has_no_factors_anywhere(x64):
    params, x = setting(1)
    with pytest.raises(ValueError, match="softmax cross-entropy of 1 output is constant"):
        softmax_factors(jnp.ones(1))
    with pytest.raises(ValueError, match="sigmoid_factors"):
        exact_traces(lambda p, s, image: apply(p, s, image[None], False)[0][0], params, {}, x)
    with pytest.raises(ValueError, match="sigmoid_factors"):
        group_traces(NETWORK, None, budget(), params, {}, x)
