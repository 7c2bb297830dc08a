"""A loss that is no mean over examples is refused before it is cut (pitfalls 1, 3)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsharp.core import Batches, additivity, memory
from jaxsharp.curvature import (
    empirical_fisher,
    fisher,
    gaussian,
    ggn,
    hessian,
    monte_carlo_fisher,
)

RNG = np.random.default_rng(0)
N = 50
X = RNG.standard_normal((N, 3)).astype(np.float32)
MASK = (np.arange(N) % 7 < np.arange(N) % 5).astype(np.float32) + 1
DATA = {"x": X, "m": MASK}
W = jnp.array([0.5, -1.0, 2.0])
CUTS = [0, 20, 27, N]
PARTS = [jax.tree.map(lambda a, i=i: a[CUTS[i] : CUTS[i + 1]], DATA) for i in range(3)]
BATCHES = Batches(lambda: iter(PARTS))


def each(w, batch):
    return jnp.tanh(batch["x"] @ w) ** 2


def mean(w, batch):
    return jnp.mean(each(w, batch))


def normalized(w, batch):
    z = batch["x"] @ w
    return jnp.mean(jnp.tanh((z - jnp.mean(z)) / jnp.std(z) + 1))


def stopped(w, batch):
    """The value is a mean over examples, its gradient is not."""
    z = jnp.std(batch["x"] @ w)
    return mean(w, batch) + z - jax.lax.stop_gradient(z)


def contrastive(w, batch):
    z = batch["x"] * w
    return -jnp.mean(jnp.diag(jax.nn.log_softmax(z @ z.T)))


WRONG = {
    "sum": lambda w, b: jnp.sum(each(w, b)),
    "masked mean": lambda w, b: jnp.sum(b["m"] * each(w, b)) / jnp.sum(b["m"]),
    "batch statistics": normalized,
    "contrastive": contrastive,
    "gradient alone": stopped,
    "maximum": lambda w, b: jnp.max(each(w, b)),
    "sum over a constant": lambda w, b: jnp.sum(each(w, b)) / N,
    "regularizer by batch": lambda w, b: mean(w, b) + 0.1 * jnp.sum(w**2) / len(b["x"]),
    "mean over the wrong axis": lambda w, b: jnp.sum(jnp.mean(jnp.tanh(b["x"] * w), axis=1)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_mean_is_refused_on_arrays_and_batches(name):
    for data, size in ((DATA, 20), (BATCHES, None)):
        with pytest.raises(ValueError, match=r"no mean over examples.*weights=.*'whole'") as error:
            hessian(WRONG[name], W, data, chunk_size=size)
        assert "\n" not in str(error.value)


@pytest.mark.slow
def test_nothing_is_refused_where_nothing_is_cut(monkeypatch):
    calls = []
    monkeypatch.setattr(additivity, "_compare_parts", lambda *a: calls.append(a))
    for options in ({}, {"chunk_size": N}, {"chunk_size": "whole"}, {"check": False}):
        hessian(normalized, W, DATA, **options)
    hessian(normalized, W, Batches(lambda: [DATA]))
    assert not calls


@pytest.mark.slow
def test_the_memory_cuts_no_loss_unasked(monkeypatch):
    monkeypatch.setitem(memory.CHUNK_BYTES, "cpu", 500)
    with pytest.raises(ValueError, match="no mean over examples"):
        hessian(WRONG["sum"], W, DATA)
    undivided = hessian(WRONG["sum"], W, DATA, chunk_size="whole", recompute=True)
    exact = jax.hessian(WRONG["sum"])(W, DATA) @ W
    np.testing.assert_allclose(undivided(W), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_means_pass_however_small_large_or_flat():
    decayed = lambda w, b: mean(w, b) + jnp.sum(w**2)  # noqa: E731
    sure = lambda w, b: jnp.mean(jnp.logaddexp(0, -30 - (b["x"] @ w) ** 2))  # noqa: E731
    least = jnp.linalg.lstsq(X, MASK)[0]
    squared = lambda w, b: jnp.mean((b["x"] @ w - b["m"]) ** 2)  # noqa: E731
    far = lambda w, b: jnp.mean((b["x"] @ w - 1e5 - 1e5 * (b["x"] @ W - 1)) ** 2)  # noqa: E731
    for loss, w in ((decayed, W), (sure, W), (squared, least), (far, 1e5 * W), (mean, 0 * W)):
        for factor in (1e-12, 1.0, 1e12):
            hessian(lambda w, b, f=factor, loss=loss: f * loss(w, b), w, DATA, chunk_size=20)


LARGE = {"x": RNG.standard_normal((N, 64)).astype(np.float32), "m": MASK, "y": np.arange(N) % 10}


def sure_network(margin):
    """Parameters of a ReLU network that is right on all of LARGE by a margin of logits."""
    hidden = RNG.standard_normal((64, 256)).astype(np.float32) / 8
    logits = margin * np.eye(10)[LARGE["y"]]
    last = np.linalg.lstsq(np.maximum(LARGE["x"] @ hidden, 0), logits, rcond=None)[0]
    return {"hidden": jnp.asarray(hidden), "last": jnp.asarray(last, jnp.float32)}


def logits_of(p, batch):
    return jax.nn.relu(batch["x"] @ p["hidden"]) @ p["last"]


def cross_entropies(p, batch):
    return optax.softmax_cross_entropy_with_integer_labels(logits_of(p, batch), batch["y"])


def of_statistics(p, batch):
    """Logits less their mean over the batch."""
    logits = logits_of(p, batch)
    logits = logits - logits.mean(0)
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()


SURE_WRONG = {
    "sum": lambda p, b: cross_entropies(p, b).sum(),
    "masked mean": lambda p, b: (b["m"] * cross_entropies(p, b)).sum() / b["m"].sum(),
    "batch statistics": of_statistics,
}


@pytest.mark.slow
@pytest.mark.parametrize("margin", [9, 15, 40])
def test_networks_that_are_sure_of_all_examples_pass(margin):
    """Of softmax(f) - 1 rounding is all that is left; the loss is 1e-3 at 9 and 0 from 18 on."""
    loss = lambda p, b: cross_entropies(p, b).mean()  # noqa: E731
    hessian(loss, sure_network(margin), LARGE, chunk_size=20)


@pytest.mark.slow
@pytest.mark.parametrize("name", SURE_WRONG)
def test_what_is_no_mean_is_refused_at_networks_that_are_sure_too(name):
    with pytest.raises(ValueError, match="no mean over examples"):
        hessian(SURE_WRONG[name], sure_network(12), LARGE, chunk_size=20)


@pytest.mark.slow
def test_what_is_not_finite_is_not_looked_for_elsewhere():
    """It is finite, and a mean, at smaller parameters."""
    loss = lambda w, b: mean(w, b) + 0 * jnp.sqrt(1.5 - w[2])  # noqa: E731
    with pytest.raises(ValueError, match="it is nan"):
        hessian(loss, W, DATA, chunk_size=20)


@pytest.mark.slow
def test_inside_jit_the_product_is_nan():
    of = lambda loss: jax.jit(lambda w, b: hessian(loss, w, b, chunk_size=20)(w))(W, DATA)  # noqa: E731
    assert np.isnan(of(normalized)).all()
    np.testing.assert_allclose(of(mean), jax.hessian(mean)(W, DATA) @ W, rtol=1e-5)
    with pytest.raises(ValueError, match="no mean over examples"):  # constants are known
        jax.jit(lambda v: hessian(normalized, W, DATA, chunk_size=20)(v))(W)


@pytest.mark.slow
def test_outputs_of_other_examples_are_found_in_every_product():
    apply = lambda w, b: (b["x"] @ w / jnp.std(b["x"] @ w))[:, None]  # noqa: E731
    output_loss = lambda out, b: jnp.mean(out**2)  # noqa: E731
    key = jax.random.key(0)
    for data, size in ((DATA, 20), (BATCHES, None)):
        for make in (
            lambda d, s: fisher(apply, gaussian, W, d, chunk_size=s),
            lambda d, s: monte_carlo_fisher(apply, gaussian, W, d, key=key, chunk_size=s),
            lambda d, s: ggn(apply, output_loss, W, d, chunk_size=s),
            lambda d, s: empirical_fisher(WRONG["sum"], W, d, chunk_size=s),
        ):
            with pytest.raises(ValueError, match="no mean over examples"):
                make(data, size)
    with pytest.raises(ValueError, match="no mean over examples"):  # takes examples one by one
        empirical_fisher(WRONG["masked mean"], W, DATA)


def test_the_check_takes_less_than_two_passes_over_a_thousand_examples():
    seen = []
    x = RNG.standard_normal((2500, 3)).astype(np.float32)

    def counted(w, batch):
        jax.debug.callback(lambda b: seen.append(len(b)), batch)
        return jnp.mean(jnp.tanh(batch @ w) ** 2)

    hessian(counted, W, x, chunk_size=500, recompute=True)
    jax.effects_barrier()
    assert 0 < sum(seen) <= 2000
    assert max(seen) <= 1000


@pytest.mark.slow
@pytest.mark.parametrize("streamed", [False, True])
def test_weights_give_the_masked_mean_whatever_the_chunks(streamed):
    masked = WRONG["masked mean"]
    dense = jax.hessian(masked)(W, DATA)
    data = BATCHES if streamed else DATA
    options = {"weights": lambda b: b["m"], "chunk_size": 6}
    apply = lambda w, b: b["x"] @ w  # noqa: E731
    squares = lambda w, b: (b["x"] @ w) ** 2  # noqa: E731
    share = MASK / MASK.sum()
    gram = (X.T * share) @ X
    outer = (X.T * (share * (2 * X @ np.asarray(W)) ** 2)) @ X
    for operator, exact in (
        (hessian(each, W, data, **options), dense),
        (ggn(apply, lambda out, b: out**2, W, data, **options), 2 * gram),
        (fisher(apply, gaussian, W, data, **options), gram),
        (empirical_fisher(squares, W, data, **options), outer),
    ):
        np.testing.assert_allclose(operator(W), exact @ W, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="one number for each example"):
        hessian(mean, W, data, weights=lambda b: b["m"])
    for bad in (lambda b: -b["m"], lambda b: 0 * b["m"], lambda b: b["x"]):
        with pytest.raises(ValueError, match="weights"):
            hessian(each, W, data, weights=bad)


@pytest.mark.slow
def test_sampled_targets_know_examples_by_their_place():
    """Another order at each pass would be another matrix each time; other batches are none."""
    key, orders = jax.random.key(1), iter([np.arange(N), np.roll(np.arange(N), 1)] * 99)
    apply = lambda w, b: (b @ w)[:, None]  # noqa: E731

    def reshuffled():
        x = X[next(orders)]
        return [x[:20], x[20:]]

    lengths = iter([20, 30, 7] * 99)

    def recut():
        cut = next(lengths)
        return [X[:cut], X[cut:]]

    sampled = lambda data: monte_carlo_fisher(apply, gaussian, W, data, key=key)  # noqa: E731
    fisher(apply, gaussian, W, Batches(reshuffled))
    with pytest.raises(ValueError, match="same order"):
        sampled(Batches(reshuffled))
    np.testing.assert_allclose(sampled(Batches(recut))(W), sampled(X)(W), rtol=1e-5)


def test_bad_chunk_sizes():
    with pytest.raises(ValueError, match="'all'; it must be a number, None or 'whole'"):
        hessian(mean, W, DATA, chunk_size="all")
    with pytest.raises(ValueError, match="Batches are divided"):
        hessian(mean, W, BATCHES, chunk_size="whole")
