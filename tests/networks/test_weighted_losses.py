"""Losses in which tokens, or examples, do not count alike: dense, in float64, and in chunks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxsharp import core, curvature, data, networks, runs, studies
from jaxsharp.measures import spectrum
from jaxsharp.networks.checks import check_fit
from jaxsharp.networks.losses import IGNORED, by_weights
from jaxsharp.training.epochs import evaluation

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 5, (11, 4)).astype(np.int32)
LABELS = (TOKENS + 1) % 3
LABELS[RNG.random(LABELS.shape) < 0.4] = IGNORED
LABELS[0], LABELS[1] = IGNORED, 2  # none counts, all do
LABELS = LABELS.astype(np.int32)
SOME = slice(1, None)  # examples of which a token counts
BY_TOKENS = networks.LOSSES["token_cross_entropy"]
BY_EXAMPLES = networks.LOSSES["token_cross_entropy_by_example"]


def init(key):
    first, last = jax.random.split(key)
    return {"w": jax.random.normal(first, (5, 3)), "v": jax.random.normal(last, (3, 3))}, {}


def apply(params, stats, tokens, train):
    return jnp.tanh(params["w"][tokens]) @ params["v"], stats


def dense(params, tokens, labels, by):
    """The loss and the accuracy token by token, in a loop."""
    logits = np.asarray(apply(params, {}, jnp.asarray(tokens), False)[0], np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    rows = [[(i, t) for t in range(4) if y[t] != IGNORED] for i, y in enumerate(labels)]
    share = {
        "tokens": lambda row: 1 / sum(map(len, rows)),
        "examples": lambda row: 1 / len(row) / len(rows),
    }[by]
    terms = [(share(row), i, t) for row in rows for i, t in row]
    loss = sum(-s * log_p[i, t, labels[i, t]] for s, i, t in terms)
    right = sum(s * (logits[i, t].argmax() == labels[i, t]) for s, i, t in terms)
    return loss, right


def program(params, tokens, labels, by):
    """The same loss for derivatives."""
    log_p = jax.nn.log_softmax(apply(params, {}, tokens, False)[0])
    counted = labels != IGNORED
    nll = -jnp.take_along_axis(log_p, jnp.where(counted, labels, 0)[..., None], -1)[..., 0]
    nll = jnp.where(counted, nll, 0)
    if by == "tokens":
        return nll.sum() / counted.sum()
    return (nll.sum(1) / counted.sum(1)).mean()


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield jax.tree.map(lambda x: x.astype(jnp.float64), init(jax.random.key(1))[0])


KINDS = {"tokens": (BY_TOKENS, slice(None)), "examples": (BY_EXAMPLES, SOME)}


@pytest.mark.slow
@pytest.mark.parametrize("by", KINDS)
def test_loss_curvature_and_measures_in_chunks_are_the_dense_ones(double, by):
    loss, rows = KINDS[by]
    network = networks.Network(init, apply, loss=loss)
    batch = jnp.asarray(TOKENS[rows]), jnp.asarray(LABELS[rows])
    want = dense(double, *map(np.asarray, batch), by)
    outputs = network.evaluate(double, {}, batch[0])
    for memory in (None, core.Budget(1, 1, 1, False)):
        found = evaluation(network)(double, {}, batch, memory or core.budget())
        np.testing.assert_allclose(found, want, rtol=1e-12)
    np.testing.assert_allclose(loss.mean(outputs, batch[1]), want[0], rtol=1e-12)
    np.testing.assert_allclose(program(double, *batch, by), want[0], rtol=1e-12)

    flat, tree = ravel_pytree(double)
    hessian = jax.hessian(lambda x: program(tree(x), *batch, by))(flat)
    matvec = curvature.hessian(network.frozen_loss({}, batch[1]), double, batch, chunk_size=3)
    vector = jnp.cos(jnp.arange(flat.size))
    product = ravel_pytree(matvec(tree(vector)))[0]
    np.testing.assert_allclose(product, hessian @ vector, rtol=1e-10, atol=1e-12)
    if by == "tokens":
        key = jax.random.key(0)
        top = spectrum.top_eigenvalue(network, double, {}, batch, key, tol=1e-6, chunk_size=2)
        np.testing.assert_allclose(top.value, np.linalg.eigvalsh(hessian)[-1], rtol=1e-8)


@pytest.mark.slow
def test_a_step_takes_the_mean_over_the_tokens_of_its_batch():
    params = init(jax.random.key(1))[0]
    for rows in (slice(0, 4), slice(4, 11)):
        outputs = apply(params, {}, TOKENS[rows], True)[0]
        want = dense(params, TOKENS[rows], LABELS[rows], "tokens")
        found = BY_TOKENS.mean(outputs, LABELS[rows]), BY_TOKENS.accuracy(outputs, LABELS[rows])
        np.testing.assert_allclose(found, want, rtol=1e-6)
    nothing = jax.value_and_grad(lambda f: BY_TOKENS.mean(f, LABELS[:1]))(outputs[:1])
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(nothing))


def test_a_mean_by_weights_needs_all_targets():
    """Chunks of three would have the mean number of tokens by chance, and pass a check of sums."""
    network = networks.Network(init, apply, loss=BY_TOKENS)
    with pytest.raises(
        ValueError, match=r"^loss token_cross_entropy has weights; give the targets"
    ):
        network.frozen_loss({})


def absolute(outputs, targets):
    return jnp.abs(outputs[:, 0] - targets[:, 0])


def importance(targets):
    return targets[:, 1]


def test_own_losses_have_weights():
    loss = by_weights(absolute, importance)
    assert loss == by_weights(absolute, importance) and loss.name == "absolute"
    outputs = RNG.normal(size=(7, 1)).astype(np.float32)
    targets = RNG.uniform(size=(7, 2)).astype(np.float32)
    want = np.average(np.abs(outputs[:, 0] - targets[:, 0]), weights=targets[:, 1])
    np.testing.assert_allclose(loss.mean(outputs, targets), want, rtol=1e-6)
    few = jax.ShapeDtypeStruct((2, 1), jnp.float32)
    check_fit(loss, few, targets)
    for wrong, message in (
        (-targets, r"weights lie from -.*; they must be finite, not negative"),
        (0 * targets, "weights lie from 0.0 to 0.0"),
        (targets * np.nan, "weights lie from nan"),
    ):
        with pytest.raises(ValueError, match=message):
            check_fit(loss, few, wrong)
    with pytest.raises(ValueError, match=r"losses have shape \(2, 1\) and weights \(2,\)"):
        check_fit(by_weights(lambda f, y: f, importance), few, targets)


@pytest.mark.parametrize(
    ("loss", "labels", "message"),
    [
        ("cross_entropy", LABELS, "targets hold -100.*valid losses of such are token_cross"),
        ("token_cross_entropy", LABELS[:1], "of example 0 no token counts, all are -100"),
        ("token_cross_entropy_by_example", LABELS, "of example 0 no token counts"),
        ("token_cross_entropy", LABELS + 2, "labels hold -98; the classes are 0 to 2"),
        ("token_cross_entropy", LABELS * 1.0, "labels are float32"),
    ],
)
def test_labels_that_leave_no_mean_are_refused(loss, labels, message):
    few = jax.ShapeDtypeStruct((2, 4, 3), jnp.float32)
    with pytest.raises(ValueError, match=message):
        check_fit(networks.LOSSES[loss], few, labels)


@pytest.mark.slow
def test_a_study_of_masked_tokens(tmp_path, capsys):
    mine = data.from_arrays((TOKENS, LABELS), (TOKENS[:3], LABELS[:3]), name="mine", num_classes=3)
    network = networks.Network(init, apply)
    grid = {"optimizers": ["sgd"], "sam": ["none"], "seeds": 1, "epochs": 2, "batch_size": 4}
    wanted = {"measures": ["minimum_sharpness", "random_perturbation"], "num_perturbations": 4}
    options = {"loss": "token_cross_entropy", "last_batch": "keep", "loss_below": None}
    found = studies.run(network, mine, out=tmp_path, **grid, **wanted, **options)
    (row,) = found.runs.to_dict("records")
    (run,) = (tmp_path / "runs").iterdir()
    params, _ = runs.load_parameters(run)
    for part, split in (("train", mine.train), ("test", mine.test)):
        want = dense(params, *split, "tokens")
        np.testing.assert_allclose((row[f"{part}_loss"], row[f"{part}_accuracy"]), want, rtol=1e-5)
    assert "derivatives of loss token_cross_entropy are not known" in capsys.readouterr().err
    assert np.isnan(row["minimum_sharpness"]) and row["random_perturbation_finished"]
