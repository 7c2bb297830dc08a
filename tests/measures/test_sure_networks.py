"""A network that is sure of its examples: what its loss gives in float32 is that of float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsharp import curvature, measures, networks

RNG = np.random.default_rng(0)
LABELS = np.arange(40) % 4
INPUTS = (np.eye(4, 6)[LABELS] + 0.02 * RNG.normal(size=(40, 6))).astype(np.float32)
FIRST = RNG.normal(size=(6, 16)).astype(np.float32)
HIDDEN = np.maximum(INPUTS.astype(np.float64) @ FIRST, 0)
LAST = np.linalg.lstsq(HIDDEN, np.eye(4)[LABELS])[0]
ALONG = {"w1": RNG.normal(size=(6, 16)), "w2": RNG.normal(size=(16, 4))}
# Mean losses, and the factors of the last layer that give about these.
SURE = {1: 0.5, 1e-2: 5.8, 1e-4: 10.5, 1e-6: 15.3, 1e-8: 20.0}


def apply(params, stats, x, train):
    return jax.nn.relu(x @ params["w1"]) @ params["w2"], stats


NETWORK = networks.Network(lambda key: ({"w1": FIRST, "w2": LAST}, {}), apply)


@jax.jit
def derivatives(params, along, x):
    batch, loss = (x, jnp.asarray(LABELS)), NETWORK.frozen_loss({})
    outputs = lambda params, batch: NETWORK.evaluate(params, {}, batch[0])  # noqa: E731
    output_loss = lambda f, batch: networks.cross_entropy(f, batch[1])  # noqa: E731
    example = lambda params, stats, x: apply(params, stats, x, False)[0]  # noqa: E731
    options = {"check": False}  # of the loss, the larger part of a program
    return {
        "loss": loss(params, batch),
        "gradient": jax.grad(loss)(params, batch),
        "hessian": curvature.hessian(loss, params, batch, **options)(along),
        "ggn": curvature.ggn(outputs, output_loss, params, batch, **options)(along),
        "fisher": curvature.fisher(outputs, curvature.categorical, params, batch)(along),
        "empirical": curvature.empirical_fisher(loss, params, batch, **options)(along),
        "traces": curvature.exact_traces(example, params, {}, x),
    }


def apart(found, true):
    """The largest relative difference, in norm, of two trees of arrays, in eps of float32."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(true), strict=True)
    lengths = [(np.linalg.norm(np.asarray(a, float) - b), np.linalg.norm(b)) for a, b in pairs]
    return max(a / b for a, b in lengths) / np.finfo(np.float32).eps


@pytest.mark.slow
@pytest.mark.parametrize("size", SURE)
def test_derivatives_and_measures_keep_their_digits_at_a_small_loss(x64, size):
    """Logits of up to 20 are rounded to a few eps each, and so the loss to 20 eps and more."""
    found = []
    for dtype in (jnp.float32, jnp.float64):
        cast = lambda tree, to=dtype: jax.tree.map(lambda a: jnp.asarray(a, to), tree)  # noqa: E731
        params = cast({"w1": FIRST, "w2": np.float32(SURE[size] * LAST)})
        batch = cast(INPUTS), jnp.asarray(LABELS)
        values = derivatives(params, cast(ALONG), batch[0])
        values["minimum"] = measures.minimum_sharpness(NETWORK, params, {}, batch).value
        found.append(values)
    assert 0.5 * size < found[1]["loss"] < 2 * size
    assert {name: apart(found[0][name], found[1][name]) for name in found[0]} == {
        name: pytest.approx(0, abs=40) for name in found[0]
    }
