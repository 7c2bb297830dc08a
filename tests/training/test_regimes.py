"""Schedules, augmentation, smoothed labels and mixed examples against what they are defined as."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsharp import networks
from jaxsharp.data.augment import augmented, crop, cutout, flip
from jaxsharp.networks.losses import CROSS_ENTROPY
from jaxsharp.training import SCHEDULES, Regime
from jaxsharp.training.regimes import changed, objective, rate_factor

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(1, 256, (40, 6, 8, 2), dtype=np.uint8)
LABELS = RNG.integers(0, 3, 40).astype(np.int32)
LOGITS = jnp.asarray(RNG.normal(size=(40, 3)), jnp.float32)
KEY = jax.random.key(0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_rate_rises_to_its_peak_and_follows_its_schedule(schedule):
    regime = Regime(schedule, warmup_epochs=2)
    factor = jax.jit(lambda step: rate_factor(regime, step, 5, 12))
    rates = np.array([factor(step) for step in range(60)])
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10, rtol=1e-6)
    done = np.arange(50) / 50
    want = {
        "constant": np.ones(50),
        "linear": 1 - done,
        "cosine": np.cos(np.pi * done / 2) ** 2,
        "step": np.select([done < 0.5, done < 0.75], [1.0, 0.1], 0.01),
        "exponential": np.exp(-done * np.log(100)),
    }[schedule]
    np.testing.assert_allclose(rates[10:], want, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_images_are_shifted_mirrored_and_cut():
    images = jnp.asarray(IMAGES)
    shifted, mirrored, cut = (np.asarray(f(KEY, images)) for f in (crop, flip, cutout))
    padded = np.pad(IMAGES, ((0, 0), (4, 4), (4, 4), (0, 0)))
    corners = []
    for image, around in zip(shifted, padded, strict=True):
        found = [
            (i, j)
            for i in range(9)
            for j in range(9)
            if np.array_equal(around[i : i + 6, j : j + 8], image)
        ]
        assert found
        corners.append(found[0])
    assert len(set(corners)) > 20
    assert all(set(places) >= {0, 8} for places in zip(*corners, strict=True))  # -4 to 4
    both = [np.array_equal(m, i[:, ::-1]) for m, i in zip(mirrored, IMAGES, strict=True)]
    same = [np.array_equal(m, i) for m, i in zip(mirrored, IMAGES, strict=True)]
    assert all(a != b for a, b in zip(both, same, strict=True)) and 10 < sum(both) < 30
    zero = (cut == 0).all(-1)
    assert np.array_equal(cut[~zero], IMAGES[~zero]) and zero.sum((1, 2)).max() == 9
    for mask in zero:  # one rectangle, at most three by three, whole unless an edge cuts it
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask[np.ix_(rows, columns)].all()
    assert len({tuple(np.argwhere(mask)[0]) for mask in zero}) > 10


@pytest.mark.slow
def test_names_of_several_changes_are_each_done_with_its_own_key():
    images = jnp.asarray(IMAGES)
    want = flip(jax.random.fold_in(KEY, 1), crop(jax.random.fold_in(KEY, 0), images))
    np.testing.assert_array_equal(augmented("crop_flip", KEY, images), want)
    np.testing.assert_array_equal(augmented("none", KEY, images), IMAGES)
    with pytest.raises(ValueError, match="unknown augmentation 'blur'"):
        augmented("crop_blur", KEY, images)


@pytest.mark.slow
def test_smoothed_labels_are_cross_entropy_with_soft_ones():
    soft = 0.8 * jax.nn.one_hot(LABELS, 3) + 0.2 / 3
    want = -(soft * jax.nn.log_softmax(LOGITS)).sum(-1).mean()
    found = objective(CROSS_ENTROPY, Regime(label_smoothing=0.2))(LOGITS, LABELS)
    np.testing.assert_allclose(found, want, rtol=1e-6)


@pytest.mark.slow
def test_mixed_batches_have_mixed_images_and_losses():
    regime = Regime(mixup=0.4)
    images, targets = changed(regime, KEY, (jnp.asarray(IMAGES), jnp.asarray(LABELS)))
    share = float(targets.share[0])
    assert 0 < share < 1 and np.all(targets.share == share)
    order = [
        int(np.flatnonzero((IMAGES == other).all((1, 2, 3)))[0]) for other in partner(images, share)
    ]
    np.testing.assert_array_equal(targets.second, LABELS[order])
    assert sorted(order) == list(range(40))
    want = share * networks.cross_entropy(LOGITS, LABELS) + (1 - share) * networks.cross_entropy(
        LOGITS, LABELS[order]
    )
    np.testing.assert_allclose(objective(CROSS_ENTROPY, regime)(LOGITS, targets), want, rtol=1e-6)


def partner(mixed, share):
    """The images that the others were mixed with."""
    return np.rint((np.asarray(mixed, np.float64) - share * IMAGES) / (1 - share)).astype(np.uint8)
