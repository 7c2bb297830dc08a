"""Labels that are no classes of the logits' shape are refused, or NaN where they are not known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsharp.curvature import bernoulli, categorical, gaussian, hessian, poisson
from jaxsharp.networks import accuracy, cross_entropy

LOGITS = jnp.asarray(np.random.default_rng(0).standard_normal((4, 3)), jnp.float32)
LABELS = np.array([0, 2, 1, 2])


@pytest.mark.parametrize("measure", [cross_entropy, accuracy])
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 2, -1, 2]), "labels hold -1; the classes are 0 to 2"),
        (jnp.array([0, 3, 1, 2]), "labels hold 3; the classes are 0 to 2"),
        (LABELS[:, None], r"shape \(4, 1\); they must be integers of shape \(4,\)"),
        (LABELS[:3], r"shape \(3,\)"),
        (np.eye(3)[LABELS], "not one-hot"),
        (LABELS.astype(np.float32), "labels are float32"),
        (LABELS > 0, "labels are bool"),
    ],
)
def test_wrong_labels_give_one_line(measure, labels, message):
    with pytest.raises(ValueError, match=message) as error:
        measure(LOGITS, labels)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_unknown_labels_that_are_no_class_give_nan_also_in_derivatives():
    loss = lambda w, b: cross_entropy(b[0] * w, b[1])  # noqa: E731
    one = jnp.ones(())

    @jax.jit
    def both(labels):
        batch = LOGITS, labels
        return loss(one, batch), hessian(loss, one, batch)(one)

    assert np.isfinite(both(LABELS)).all()
    for wrong in (-1, 3):
        assert np.isnan(both(np.array([0, 2, wrong, 2]))).all()
    assert np.isnan(jax.jit(accuracy)(LOGITS, np.array([0, 2, -1, 2])))
    expected = -np.mean(np.asarray(jax.nn.log_softmax(LOGITS))[np.arange(4), LABELS])
    np.testing.assert_allclose(cross_entropy(LOGITS, LABELS), expected, rtol=1e-6)


@pytest.mark.slow
def test_likelihoods_refuse_targets_of_another_kind():
    row = LOGITS[0]
    for likelihood, target, message in (
        (categorical, -1, "labels hold -1"),
        (categorical, 3, "labels hold 3"),
        (categorical, jnp.ones(1, int), r"shape \(1,\)"),
        (categorical, jnp.eye(3)[0], "not one-hot"),
        (categorical, 1.0, "labels are float32"),
        (bernoulli, jnp.ones(1), r"shape \(1,\); it must be that of its output, \(3,\)"),
        (bernoulli, jnp.array([-1.0, 1, 1]), "targets hold -1.0"),
        (gaussian, jnp.ones(()), r"shape \(\)"),
        (poisson, jnp.ones(1), r"shape \(1,\)"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            likelihood.log_prob(row, target)
        assert "\n" not in str(error.value)
    assert np.isnan(jax.jit(categorical.log_prob)(row, -1))
    assert np.isnan(jax.jit(bernoulli.log_prob)(row, -jnp.ones(3)))
