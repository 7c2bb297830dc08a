"""Cross-entropies in float32 against float64, from very small losses to very large ones."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsharp.core.entropies import binary_cross_entropies, cross_entropies, log_softmax
from jaxsharp.curvature import bernoulli, categorical

EPS = np.finfo(np.float32).eps
RNG = np.random.default_rng(0)
NOISE, ALONG = RNG.normal(size=(2, 64, 10))
LABELS = RNG.integers(0, 10, 64)
HOT = np.eye(10)[LABELS]
SIGNS = RNG.choice([-1.0, 1.0], size=(64, 10))


def soft(logits, targets):
    return -(targets * log_softmax(logits)).sum(-1)


# Losses of an example, those of JAX (in float64), targets, and where the targets point to.
FORMS = {
    "labels": (
        cross_entropies,
        lambda f, y: -jnp.take_along_axis(jax.nn.log_softmax(f), y[:, None], 1)[:, 0],
        LABELS,
        HOT,
    ),
    "soft": (
        soft,
        lambda f, t: -(t * jax.nn.log_softmax(f)).sum(-1),
        np.float32(0.9 * HOT + 0.01),
        HOT,
    ),
    "binary": (
        lambda f, t: binary_cross_entropies(f, t).sum(-1),
        lambda f, t: -(t * jax.nn.log_sigmoid(f) + (1 - t) * jax.nn.log_sigmoid(-f)).sum(-1),
        np.float32(SIGNS > 0),
        SIGNS,
    ),
    "likelihood, labels": (
        jax.vmap(lambda f, y: -categorical.log_prob(f, y)),
        lambda f, y: -jnp.take_along_axis(jax.nn.log_softmax(f), y[:, None], 1)[:, 0],
        LABELS,
        HOT,
    ),
    "likelihood, binary": (
        jax.vmap(lambda f, t: -bernoulli.log_prob(f, t)),
        lambda f, t: -(t * jax.nn.log_sigmoid(f) + (1 - t) * jax.nn.log_sigmoid(-f)).sum(-1),
        np.float32(SIGNS > 0),
        SIGNS,
    ),
}


@partial(jax.jit, static_argnums=0)
def to_second_order(losses, logits, along, targets):
    mean = lambda f: losses(f, targets).mean()  # noqa: E731
    slope, product = jax.jvp(jax.grad(mean), (logits,), (along,))
    return mean(logits), slope, product


def assert_digits(form, logits):
    losses, slow, targets, _ = FORMS[form]
    logits, along = logits.astype(np.float32), ALONG.astype(np.float32)
    found = to_second_order(losses, logits, along, targets)
    targets = targets if targets.dtype == int else targets.astype(float)
    true = to_second_order(slow, logits.astype(float), along.astype(float), targets)
    for one, other in zip(found, true, strict=True):
        assert one.dtype == np.float32 and other.dtype == np.float64
        assert np.linalg.norm(one.astype(float) - other) <= 16 * EPS * np.linalg.norm(other)
    return float(true[0])


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_derivatives_keep_their_digits_however_small_the_loss(x64, form):
    *_, direction = FORMS[form]
    pushed = 12 if form.endswith("binary") else 10
    sizes = [assert_digits(form, NOISE + direction * gap) for gap in (0, 4, 8, pushed, 14, 18)]
    if form != "soft":  # which is no smaller than the entropy of the targets
        assert sizes[0] > 1 and sizes[-1] < 1e-6 and sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("form", FORMS)
def test_one_example_that_is_surely_wrong_leaves_the_others_their_digits(x64, form):
    """The second derivative of its loss is as small as that of the others."""
    logits = NOISE + 18 * FORMS[form][-1]
    logits[0] = np.roll(logits[0], 1) if "binary" not in form else -logits[0]
    assert_digits(form, logits)


@pytest.mark.parametrize("form", FORMS)
def test_a_loss_of_a_thousand_is_as_right(x64, form):
    losses, slow, targets, direction = FORMS[form]
    logits = (NOISE - 1000 * direction).astype(np.float32)
    found = to_second_order(losses, logits, np.float32(ALONG), targets)
    true = to_second_order(slow, logits.astype(float), ALONG, targets * 1)
    assert true[0] > 900
    for one, other in zip(found[:2], true[:2], strict=True):
        np.testing.assert_allclose(one, other, rtol=16 * EPS, atol=1e-9)
    assert np.isfinite(found[2]).all()


INF = np.inf
ROWS = np.array(
    [
        *([INF, 0, 1], [-INF, 0, 1], [0, -INF, 1], [-INF, 0, -INF], [-INF] * 3, [0, np.nan, 1]),
        *([np.nan, 0, 0], [INF, INF, 0], [-INF, INF, 0], [1e38, -1e38, 0], [2, 2, 2]),
    ],
    np.float32,
)


@pytest.mark.slow
@pytest.mark.parametrize("label", range(3))
def test_infinities_give_what_log_softmax_gives(label):
    labels = np.full(len(ROWS), label)
    with jax.debug_nans(False):
        slow = lambda f: -jax.nn.log_softmax(f)[label]  # noqa: E731
        quick = lambda f: cross_entropies(f[None], labels[:1])[0]  # noqa: E731
        for fn in (lambda f: f, jax.grad):
            found, want = (np.asarray(jax.vmap(fn(of))(ROWS)) for of in (quick, slow))
            if fn is not jax.grad:
                np.testing.assert_allclose(found, want, rtol=1e-6)
            wrong = np.isnan(want).any(tuple(range(1, want.ndim)))
            assert (np.isnan(found).any(tuple(range(1, want.ndim))) == wrong).all()
        ends, targets = jnp.array([INF, -INF, INF, -INF, np.nan]), np.array([0, 1, 1, 0, 0])
        want = [INF, INF, np.nan, np.nan, np.nan]
        np.testing.assert_allclose(binary_cross_entropies(ends, targets), want)


@jax.jit
def to_third_order(row):
    of = lambda f: cross_entropies(f, np.uint8(0))  # noqa: E731
    return of(row), jax.grad(of)(row), jax.hessian(of)(row), jax.jacfwd(jax.hessian(of))(row)


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_derivatives_where_all_classes_are_equally_likely(classes):
    """Third derivatives are those of the cumulants of one draw."""
    p, eye = 1 / classes, np.eye(classes)
    centered = eye - p
    third = np.einsum("ai,aj,ak->ijk", centered, centered, centered) * p
    want = np.log(classes), p - eye[0], np.diag(np.full(classes, p)) - p * p, third
    for found, true in zip(to_third_order(jnp.zeros(classes)), want, strict=True):
        np.testing.assert_allclose(found, true, atol=1e-6)


@pytest.mark.slow
def test_leading_axes_one_example_and_targets_of_narrow_types():
    logits = jnp.asarray(RNG.normal(size=(2, 3, 4, 300)), jnp.float32)
    labels = RNG.integers(0, 256, (2, 3, 4)).astype(np.uint8)
    found = jax.jit(cross_entropies)(logits, labels)
    want = -np.asarray(jax.nn.log_softmax(logits)).reshape(24, 300)[np.arange(24), labels.ravel()]
    np.testing.assert_allclose(found.ravel(), want, rtol=1e-5)
    over = jax.jit(jax.vmap(jax.vmap(cross_entropies)))(logits, labels)
    np.testing.assert_allclose(found, over, rtol=1e-6)
    one = cross_entropies(logits[0, 0, 0], labels[0, 0, 0])
    np.testing.assert_allclose(one, found[0, 0, 0], rtol=1e-6)
    binary = binary_cross_entropies(jnp.ones(2), np.array([0, 1], np.uint8))
    np.testing.assert_allclose(binary, np.log1p(np.exp([1, -1])), rtol=1e-6)
    slope = jax.grad(binary_cross_entropies)
    assert slope(0.0, 0.3) == pytest.approx(0.2) and jax.grad(slope)(0.0, 0.3) == 0.25


def test_the_fisher_matrix_of_a_sure_output_keeps_its_digits(x64):
    logits = (NOISE + 18 * HOT)[0].astype(np.float32)
    for likelihood in (categorical, bernoulli):
        found = likelihood.information(logits, np.float32(ALONG[0])).astype(float)
        p = np.exp(logits.astype(float) - logits.max())
        p /= p.sum()
        want = np.diag(p) - np.outer(p, p)
        if likelihood is bernoulli:
            want = np.diag(1 / (2 + 2 * np.cosh(logits.astype(float))))
        want = want @ np.float32(ALONG[0])
        np.testing.assert_allclose(found, want, rtol=1e-5)
