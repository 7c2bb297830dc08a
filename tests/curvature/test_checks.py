"""A loss that is no fixed function is refused before it is measured (pitfall 2)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsharp.core import Batches
from jaxsharp.curvature import fisher, gaussian, ggn, hessian
from tests.cases import make_case

X = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
W = jnp.ones(3)


def loss(w, x):
    return jnp.mean(jnp.tanh(x @ w) ** 2)


def test_randomness_drawn_in_python_is_found():
    rng = np.random.default_rng(0)

    def dropout(w, x):
        return loss(w * (rng.random(3) > 0.5), x)

    def fresh_key(w, x):
        return loss(w + jax.random.normal(jax.random.key(rng.integers(1000)), (3,)), x)

    def counted(w, x, calls=[]):  # noqa: B006
        calls.append(None)
        return loss(w, x) * len(calls)

    for unsteady in (dropout, fresh_key, counted):
        with pytest.raises(ValueError, match="not a fixed function") as error:
            hessian(unsteady, W, X)
        assert "\n" not in str(error.value)
        with pytest.raises(ValueError, match="not a fixed function"):
            jax.jit(lambda w, x, f=unsteady: hessian(f, w, x)(w))(W, X)


def test_the_check_can_be_turned_off():
    rng = np.random.default_rng(0)
    hessian(lambda w, x: loss(w * rng.random(3), x), W, X, check=False)(W)


def test_outputs_are_checked_too():
    rng = np.random.default_rng(0)

    def apply(w, x):
        return jnp.tanh(x @ (w * rng.random(3)))[:, None]

    with pytest.raises(ValueError, match="not a fixed function"):
        fisher(apply, gaussian, W, X)
    with pytest.raises(ValueError, match="not a fixed function"):
        ggn(apply, lambda out, x: jnp.mean(out**2), W, X)


def test_a_callback_that_changes_is_found():
    rng = np.random.default_rng(0)

    def noisy(w, x):
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        noise = jax.pure_callback(lambda: np.float32(rng.random()), shape)
        return loss(w, x) + jax.lax.stop_gradient(noise)

    with pytest.raises(ValueError, match="evaluated twice"):
        hessian(noisy, W, X)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["relu_mlp", "batch_norm_cnn", "custom_vjp", "equinox"])
def test_fixed_losses_pass(name):
    """Programs that mention functions and constants compare equal all the same."""
    case = make_case(name)
    hessian(case.loss, case.params, case.batch)


@pytest.mark.slow
def test_passes_over_batches_are_compared():
    rng = np.random.default_rng(0)
    orders = iter([np.arange(6), np.array([3, 1, 2, 5, 0, 4])] * 9)

    def reshuffled():
        order = next(orders)
        return [X[order[:4]], X[order[4:]]]

    used_up = iter([X])
    hessian(loss, W, Batches(reshuffled))  # every example, in another order: the same matrix
    for start, message in (
        (lambda: [X + rng.normal(size=X.shape).astype(np.float32)], "two passes"),
        (lambda: [reshuffled()[0]], "two passes"),
        (lambda: [X[: rng.integers(2, 6)]], "examples in one pass"),
        (lambda: used_up, "no examples"),
        (lambda: [], "no examples"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            hessian(loss, W, Batches(start))
        assert "\n" not in str(error.value)


def test_batch_statistics_are_found():
    """BatchNorm in training mode is another function of each batch (pitfall 1)."""
    orders = iter([np.arange(6), np.array([3, 1, 2, 5, 0, 4])] * 9)

    def normalized_loss(w, x):
        return jnp.mean(jnp.tanh((x @ w) / jnp.std(x @ w)) ** 2)

    def start():
        order = next(orders)
        return [X[order[:4]], X[order[4:]]]

    with pytest.raises(ValueError, match="two passes"):
        hessian(normalized_loss, W, Batches(start))
