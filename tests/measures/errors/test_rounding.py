"""What is not random: float32 gives what float64 does, within the error that a record states."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsharp.core import budget
from jaxsharp.measures import MEASURES, Options, Trained
from tests.references import dense_hessian
from tests.tinynets import generic_point, mlp, tiny_dataset

pytestmark = pytest.mark.usefixtures("double_precision")

OPTIONS = Options(eigenvalue_tol=1e-4, eigenvalue_count=3)
STATED = [name for name, of in MEASURES.items() if not of.error.startswith("standard error")]
# minimum_sharpness is exact unless it is sampled.
STATED.insert(0, "minimum_sharpness")
# Of what is not in the test below, why.
NO_BOUND = {"keskar_sharpness": "a first-order gap is no bound where the loss is not concave"}
# Factors of the layers' parameters: from logits of 1e-12 to those of 1e10, and losses of 0.
SCALES = {
    "as it is": (1, 1, 1),
    "another": (1, 1, 1),
    "a third": (1, 1, 1),
    "tiny": (1e-3, 1e-3, 1e-3),
    "tinier": (1e-4, 1e-4, 1e-4),
    "large": (3, 3, 3),
    "larger": (30, 30, 30),
    "largest": (1e3, 1e3, 1e3),
    "narrowing": (1e3, 1, 1e-3),
    "widening": (1e-4, 1, 1e4),
    "sure": (1, 1, 12),
    "surer": (1, 1, 60),
    "unsure": (1, 1, 1e-4),
}
NETWORK = mlp(widths=(5, 4), features=8)


def rounded(tree):
    """The nearest of float32, in float64."""
    return jax.tree.map(lambda x: jnp.asarray(np.float32(x), jnp.float64), tree)


@cache
def points():
    """Parameters of every scale, stacked, with others near them that they began with."""
    each = []
    for seed, factors in enumerate(SCALES.values()):
        params, stats = generic_point(NETWORK, seed)
        layers = zip(sorted(params), factors, strict=True)
        params = {name: jax.tree.map(lambda x, c=c: c * x, params[name]) for name, c in layers}
        rng = np.random.default_rng(seed)
        near = jax.tree.map(lambda x, r=rng: x * (1 + 1e-3 * r.normal(size=x.shape)), params)
        each.append(Trained(params, stats, near))
    return rounded(jax.tree.map(lambda *leaves: jnp.stack(leaves), *each))


BATCH = tuple(tiny_dataset(num=40, shape=(2, 2, 2)).train)


@cache
def hessians():
    of_one = lambda at: dense_hessian(NETWORK.frozen_loss(at.stats), at.params, BATCH)  # noqa: E731
    return np.asarray(jax.lax.map(of_one, points()))


def taken(name, dtype):
    """A record for each of the points, or the reason why there is none."""
    at = jax.tree.map(lambda x: x.astype(dtype), points())
    of, key = MEASURES[name], jax.random.key(0)
    arrays = lambda at: of.arrays(NETWORK, at, BATCH, key, OPTIONS, budget())  # noqa: E731
    found, records = jax.device_get(jax.jit(jax.vmap(arrays))(at)), []
    for i in range(len(SCALES)):
        mine, one = (jax.tree.map(lambda x, i=i: x[i], tree) for tree in (at, found))
        records.append(of.record(NETWORK, mine, BATCH, OPTIONS, one))
    return records


def wanted(name, value, hessian):
    """An eigenvalue near the value, as a residual says no more; what is made of some, of the first.

    Where the fourth is within rounding of the first, a sum may be of others.
    """
    values = np.linalg.eigvalsh(hessian)
    if name in ("top_eigenvalue", "smallest_eigenvalue"):
        return values[np.argmin(np.abs(values - value))]
    if values[-1] - values[-4] < 1e-6 * values[-1]:
        return value
    first = values[-OPTIONS.eigenvalue_count :]
    return first.sum() if name == "top_eigenvalues_sum" else first[-1] / first[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in STATED if name not in NO_BOUND])
def test_the_value_is_within_the_stated_error(name):
    single = taken(name, jnp.float32)
    if MEASURES[name].error == "residual":
        wants = [
            wanted(name, one.value, hessian)
            for one, hessian in zip(single, hessians(), strict=True)
        ]
        allowed = [0.0] * len(wants)
    else:
        double = taken(name, jnp.float64)
        wants, allowed = [one.value for one in double], [one.error for one in double]
    assert [
        scale
        for scale, one, want, more in zip(SCALES, single, wants, allowed, strict=True)
        if not abs(one.value - want) <= one.error + more
    ] == []
