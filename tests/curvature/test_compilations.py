"""Checkpoints of one network, measured in the plain form of the guides, compile once."""

import gc
import weakref
from functools import lru_cache

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsharp import curvature
from jaxsharp.core import programs
from jaxsharp.core.trees import select

LIKE = {"a": (3, 4), "b": (4, 2)}
COUNT = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, *_, **__: COUNT.append(name) if "backend_compile" in name else None
)


def checkpoint(seed):
    draw = np.random.default_rng(seed).normal
    return {name: jnp.asarray(draw(size=shape), jnp.float32) for name, shape in LIKE.items()}


def batch_of(seed, n=12):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 3)).astype(np.float32), rng.integers(0, 2, n)


def apply(params, batch):
    return jnp.tanh(batch[0] @ params["a"]) @ params["b"]


def mean_loss(outputs, batch):
    return optax.softmax_cross_entropy_with_integer_labels(outputs, batch[1]).mean()


def loss(params, batch):
    return mean_loss(apply(params, batch), batch)


MATRICES = {
    "hessian": lambda p, b, **options: curvature.hessian(loss, p, b, **options),
    "ggn": lambda p, b, **options: curvature.ggn(apply, mean_loss, p, b, **options),
    "fisher": lambda p, b, **options: curvature.fisher(
        apply, curvature.categorical, p, b, **options
    ),
}
LOOPS = {
    "top": lambda A, p, key: curvature.top_eigenpairs(A, p, key=key, k=2).values,
    "hutchinson": lambda A, p, key: curvature.hutchinson(A, p, key=key, max_products=20).mean,
    "hutchpp": lambda A, p, key: curvature.hutchpp(A, p, key=key, sketch_size=4).mean,
    "xtrace": lambda A, p, key: curvature.xtrace(A, p, key=key, max_products=8).mean,
    "density": lambda A, p, key: curvature.spectral_density(A, p, key=key, num_steps=4).nodes,
}


def compilations(work):
    """The results of work on three checkpoints, and what the last two compiled."""
    results = [work(0)]
    COUNT.clear()
    return [*results, work(1), work(2)], len(COUNT)


@pytest.mark.slow
@pytest.mark.parametrize(
    "matrix, loop",
    [
        ("hessian", "top"),
        ("ggn", "hutchinson"),
        ("fisher", "density"),
        ("hessian", "hutchpp"),
        ("ggn", "xtrace"),
    ],
)
def test_checkpoints_compile_once(matrix, loop):
    """New parameters, data and keys; a loss written anew in every turn, as in a loop."""

    def measured(seed):
        operator = MATRICES[matrix](checkpoint(seed), batch_of(seed))
        return LOOPS[loop](operator, checkpoint(seed), jax.random.key(seed))

    found, compiled = compilations(measured)
    assert compiled == 0
    operator = MATRICES[matrix](checkpoint(2), batch_of(2))
    plain = LOOPS[loop](lambda v: operator(v), checkpoint(2), jax.random.key(2))
    np.testing.assert_allclose(found[2], plain, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"recompute": True}, {"chunk_size": 4}, {"mask": {"a": True, "b": False}}]
)
def test_each_way_to_compute_compiles_once(options):
    def like(seed):
        return select(checkpoint(seed), options.get("mask"))

    def measured(seed):
        operator = curvature.hessian(loss, checkpoint(seed), batch_of(seed), **options)
        return LOOPS["top"](operator, like(seed), jax.random.key(seed))

    assert compilations(measured)[1] == 0


@pytest.mark.slow
def test_a_loss_that_changed_is_another_program():
    """Its scale, an array that it closes over, the mask, the weights: each changes the numbers."""
    scale, shift, params, batch = 1.0, jnp.zeros(2), checkpoint(0), batch_of(0)

    def changing(p, b):
        return scale * mean_loss(apply(p, b) + shift, b)

    def top(**options):
        operator = curvature.hessian(changing, params, batch, **options)
        like = select(params, options.get("mask"))
        return float(LOOPS["top"](operator, like, jax.random.key(0))[0])

    first = top()
    scale = 3.0
    assert top() == pytest.approx(3 * first, rel=1e-4)
    scale, shift = 1.0, jnp.array([5.0, -5.0])
    assert top() != pytest.approx(first, rel=1e-2)
    shift = jnp.zeros(2)
    assert top() == pytest.approx(first, rel=1e-6)
    assert top(mask={"a": True, "b": False}) < 0.99 * first


@pytest.mark.slow
def test_a_loss_that_changed_for_chunks_alone_is_another_program():
    """All examples at once trace to one program; the chunks that are computed do not."""
    scale = 1.0

    def changing(p, b):
        return mean_loss(apply(p, b), b) * (scale if len(b[1]) == 4 else 1.0)

    def top():
        options = {"chunk_size": 4, "check": False}
        operator = curvature.hessian(changing, checkpoint(0), batch_of(0), **options)
        return float(LOOPS["top"](operator, checkpoint(0), jax.random.key(0))[0])

    first = top()
    scale = 2.0
    assert top() == pytest.approx(2 * first, rel=1e-4)


@pytest.mark.slow
def test_draws_of_another_key_are_another_matrix():
    def trace(seed):
        key = jax.random.key(seed)
        operator = curvature.monte_carlo_fisher(
            apply, curvature.categorical, checkpoint(0), batch_of(0), key=key
        )
        return float(jnp.vdot(operator(checkpoint(1))["a"], checkpoint(1)["a"]))

    assert trace(0) == trace(0) != trace(1)


@pytest.mark.slow
def test_nothing_is_kept_for_ever(monkeypatch):
    """A loss that closes over data is let go when others have taken its place."""

    def measured(number):
        constant = jnp.full(2, float(number))

        def local(p, b):
            return mean_loss(apply(p, b) + constant, b)

        operator = curvature.hessian(local, checkpoint(0), batch_of(0))
        operator(checkpoint(1))
        return weakref.ref(local)

    monkeypatch.setattr(programs, "_kept", lru_cache(maxsize=2)(programs._kept.__wrapped__))
    first = measured(0)
    gc.collect()
    assert first() is not None
    measured(1), measured(2)
    gc.collect()
    assert first() is None


@pytest.mark.slow
def test_what_a_product_closes_over_may_change():
    """A plain function is no operator: nothing of it is remembered."""
    factor, like = 2.0, checkpoint(0)

    def product(v):
        return jax.tree.map(lambda x: factor * x, v)

    assert LOOPS["top"](product, like, jax.random.key(0))[0] == pytest.approx(2.0)
    factor = 3.0
    assert LOOPS["top"](product, like, jax.random.key(0))[0] == pytest.approx(3.0)
    operator = curvature.Operator(product, "dense")
    assert LOOPS["top"](operator, like, jax.random.key(0))[0] == pytest.approx(3.0)
    factor = 4.0
    assert LOOPS["top"](operator, like, jax.random.key(0))[0] == pytest.approx(4.0)
