"""Edges against the recurrences of the steps on a quadratic, at both sides of each."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsharp import optimizers
from jaxsharp.measures import edges

LR = 0.03
DECAYS = {"weight_decay": 2.0, "decoupled_weight_decay": 1.5}


def growth(matrix):
    return np.abs(np.linalg.eigvals(matrix)).max()


def momentum_matrix(h, rate, momentum, *, weight_decay=0.0, decoupled_weight_decay=0.0, lr=LR):
    """One step of (x, buf), with buf' = momentum buf + (h + decay) x and x' = a x - rate buf'."""
    kept, pull = 1 - lr * decoupled_weight_decay, h + weight_decay
    return np.array([[kept - rate * pull, -rate * momentum], [pull, momentum]])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decays", [{}, DECAYS])
def test_heavy_ball(momentum, decays):
    edge = edges.heavy_ball_edge(LR, momentum=momentum, **decays)
    assert growth(momentum_matrix(0.999 * edge, LR, momentum, **decays)) < 1
    assert growth(momentum_matrix(1.001 * edge, LR, momentum, **decays)) > 1
    if not decays:
        assert edge == pytest.approx((2 + 2 * momentum) / LR, rel=1e-14)


@pytest.mark.parametrize("count", [None, 3])
@pytest.mark.parametrize("decay", [0.0, 1.5])
def test_adam(count, decay):
    b1 = 0.9
    edge = edges.adam_edge(LR, b1=b1, count=count, decoupled_weight_decay=decay)
    rate = LR * (1 - b1) / (1 if count is None else 1 - b1**count)
    at = lambda h: growth(momentum_matrix(h, rate, b1, decoupled_weight_decay=decay))  # noqa: E731
    assert at(0.999 * edge) < 1 < at(1.001 * edge)
    if count is None and not decay:
        assert edge == pytest.approx(38 / LR, rel=1e-14)


@pytest.mark.parametrize(("b1", "window"), [(0.9, 10), (0.9, 3), (0.5, 4), (0.0, 1), (0.99, 25)])
def test_adashift(b1, window):
    weights = b1 ** np.arange(window)
    weights = weights / weights.sum()

    def at(h):
        matrix = np.eye(max(window, 2), k=-1)
        matrix[0, :window] = -LR * h * weights
        matrix[0, 0] += 1
        return growth(matrix)

    edge = edges.adashift_edge(LR, b1=b1, window=window)
    assert at(0.999 * edge) < 1 < at(1.001 * edge)


def test_sam_on_a_quadratic():
    """SAM's step along one direction: x' = x - lr h (x + rho h x / |g|)."""
    rho, norm = 0.1, 0.7
    edge = edges.sam_edge(LR, rho=rho, gradient_norm=norm)
    assert LR * edge * (1 + rho * edge / norm) == pytest.approx(2, rel=1e-14)
    root = np.sqrt(1 + 8 * rho / (LR * norm))
    assert edge == pytest.approx(norm / (2 * rho) * (root - 1), rel=1e-12)
    assert edges.sam_edge(LR, rho=0.0, gradient_norm=norm) == 2 / LR
    # The package's own SAM turns round at the edge, and changes the sign alone of x = |g| / h.
    sam = optimizers.sam(optimizers.sgd(LR), rho)
    x, grad_fn = jnp.float32(norm / edge), lambda x: jnp.float32(edge) * x
    updates, _ = sam.update(grad_fn(x), sam.init(x), x, grad_fn=grad_fn)
    np.testing.assert_allclose(optax.apply_updates(x, updates), -x, rtol=1e-5)


def test_batches():
    assert edges.batch_edges(LR) == (2 / LR, 2 / LR)
    assert edges.batch_edges(0.5, momentum=0.75) == (1.0, 7.0)


def test_edges_of_arrays_are_arrays():
    found = jax.jit(lambda lr, g: edges.sam_edge(lr, rho=0.1, gradient_norm=g))(LR, 0.7)
    np.testing.assert_allclose(found, edges.sam_edge(LR, rho=0.1, gradient_norm=0.7), rtol=1e-6)
    assert edges.sam_edge(jnp.float32(LR), rho=0.1, gradient_norm=jnp.float32(0)) == 0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: edges.heavy_ball_edge(0.0), "learning_rate must be a finite number > 0"),
        (lambda: edges.heavy_ball_edge(0.1, momentum=1.0), "momentum must be"),
        (lambda: edges.adam_edge(0.1, b1=1.0), "b1 must be"),
        (lambda: edges.adashift_edge(0.1, window=0), "window must be"),
        (lambda: edges.sam_edge(0.1, rho=-1.0, gradient_norm=1.0), "rho must be"),
        (lambda: edges.batch_edges(-0.1), "learning_rate must be"),
    ],
)
def test_wrong_numbers(call, says):
    with pytest.raises(ValueError, match=says):
        call()
