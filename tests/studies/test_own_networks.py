"""Studies of networks of other libraries, numbers and tokens, and what is refused."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from flax import linen

from jaxsharp import data, measures, networks, runs, studies
from tests.studies.ownstudies import (
    CLASSES,
    INPUTS,
    MINE,
    NETWORK,
    NUMBERS,
    RNG,
    lion,
    root_norm,
)

IMAGES = RNG.integers(0, 256, (30, 6, 6, 1), dtype=np.uint8)
PICTURES = data.from_arrays((IMAGES, np.arange(30) % 2), holdout=10, name="pictures")


class Convolution(linen.Module):
    """A convolution and BatchNorm of Linen."""

    @linen.compact
    def __call__(self, x, train):
        x = linen.BatchNorm(not train)(linen.Conv(3, (3, 3), strides=2)(x / 255))
        return linen.Dense(2)(linen.relu(x).reshape(len(x), -1))


def of_equinox(key):
    """A perceptron of flattened images."""
    mlp = eqx.nn.MLP(36, 2, 5, 1, key=key)
    return eqx.nn.Sequential([eqx.nn.Lambda(lambda x: x.reshape(-1) / 255), mlp])


@pytest.mark.slow
@pytest.mark.parametrize("library", ["linen", "equinox"])
def test_networks_of_other_libraries_train_with_changed_images(tmp_path, library):
    network = {
        "linen": lambda: networks.from_linen(Convolution(), IMAGES),
        "equinox": lambda: networks.from_equinox(of_equinox),
    }[library]()
    grid = {"optimizers": ["adam"], "sam": ["asam"], "seeds": 1, "loss_below": None}
    recipe = {"augment": "crop_flip_cutout", "epochs": 2, "batch_size": 10}
    names = ["minimum_sharpness", "top_eigenvalue", "random_perturbation"]
    found = studies.run(network, PICTURES, out=tmp_path, **grid, **recipe, measures=names)
    (row,) = found.runs.to_dict("records")
    run = runs.load_parameters(tmp_path / "runs" / "adam-asam-bs10-seed0")
    table = measures.measure(network, *run, PICTURES.train, names[:2], key=jax.random.key(0))
    for name in names[:2]:
        assert row[f"{name}_finished"]
        np.testing.assert_allclose(row[name], table[name].value, rtol=0.02)


def absolute(outputs, targets):
    """A loss of the user's own, a mean over examples."""
    return jnp.abs(outputs[:, 0] - targets).mean()


@pytest.mark.slow
@pytest.mark.parametrize("loss", [None, absolute])
def test_numbers_are_regressed(tmp_path, capsys, loss):
    settings = {"epochs": 3, "batch_size": 8, "loss_below": None, "seeds": 1, "sam": ["none"]}
    settings["compute"] = "bfloat16" if loss else "float32"
    few = {"measures": ["minimum_sharpness", "top_eigenvalue"], "optimizers": ["adam"]}
    table = studies.run("small_mlp", NUMBERS, out=tmp_path, loss=loss, **settings, **few).runs
    (row,) = table.to_dict("records")
    assert np.isnan(row["train_accuracy"]) and row["train_loss"] < 12
    assert row.get("compute") == ("bfloat16" if loss else None)
    assert row["minimum_sharpness_finished"] == (loss is None)
    assert ("derivatives of loss absolute are not known" in capsys.readouterr().err) == bool(loss)
    assert row["top_eigenvalue"] > 0
    assert row["loss_gap"] == pytest.approx(row["test_loss"] - row["train_loss"])
    summary, correlations = (
        pd.read_csv(tmp_path / f"{t}.csv") for t in ("summary", "correlations")
    )
    assert summary["loss_gap_mean"][0] == pytest.approx(row["loss_gap"])
    assert set(correlations["target"]) == {"loss_gap"} and correlations["runs"][1] == 1


TEXT = data.from_text("abcabdabcaca" * 9, length=5)
SPEC = networks.ModelSpec("a tiny GPT", networks.zoo.gpt(4, 1, 2), inputs="tokens")
FEW = {"optimizers": ["adam"], "sam": ["none"], "seeds": 1, "batch_size": 6, "loss_below": None}


@pytest.mark.slow
def test_a_transformer_learns_the_characters_of_a_text(tmp_path):
    network = networks.load(SPEC, TEXT)
    options = {"epochs": 60, "learning_rate": 0.03, "measures": ["top_eigenvalue"], "name": "gpt"}
    (row,) = studies.run(network, TEXT, out=tmp_path, **FEW, **options).runs.to_dict("records")
    assert row["train_loss"] < 0.8 and row["test_accuracy"] > 0.6  # chance: 1.27 nats, 5/12
    assert row["top_eigenvalue_finished"] and row["top_eigenvalue"] > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_noise": 0.1}, "label_noise is 0.1; classes of tokens cannot be redrawn"),
        ({"mixup": 0.2}, "mixup is 0.2; inputs that are integers cannot be mixed"),
        ({"augment": "flip"}, "augment is flip for inputs of shape"),
    ],
)
def test_what_tokens_do_not_allow_is_refused(tmp_path, settings, message):
    with pytest.raises(ValueError) as refused:
        studies.run(networks.load(SPEC, TEXT), TEXT, out=tmp_path / "out", **FEW, **settings)
    assert message in str(refused.value) and not (tmp_path / "out").exists()


def gap(network, params, stats, batch, key):
    """A measure whose name is taken."""
    return 0.0


WRONG = {
    "unknown optimizer 'sdg'; valid are sgd": {"optimizers": ["sdg"]},
    "optimizers are 'sgd'; they must be a list": {"optimizers": "sgd"},
    "optimizer is 3; it must be a name or a function": {"optimizers": [3]},
    "unknown measure 'trace'": {"measures": ["trace"]},
    "a measure is called gap, as a column of the tables is": {"measures": [gap]},
    "unknown SAM variant 'SAM'; valid are": {"sam": ["SAM"]},
    "unknown setting 'epoch'; valid are epochs": {"epoch": 3},
    "epochs is 0; it must be at least 1": {"epochs": 0},
    "epochs is 2.5; it must be a whole number": {"epochs": 2.5},
    "unknown schedule 'cosin'; valid are cosine": {"schedule": "cosin"},
    "unknown augmentation 'mirror'": {"augment": "mirror"},
    "augment is flip for inputs of shape (40, 5)": {"augment": "flip"},
    "warmup_epochs is 4; it must be from 0 to below epochs": {"warmup_epochs": 4, "epochs": 4},
    "label_smoothing is 1.0; it must be from 0 up to below 1": {"label_smoothing": 1.0},
    "mixup is -1.0": {"mixup": -1.0},
    "unknown compute 'float16'; valid are": {"compute": "float16"},
    "unknown last_batch 'all'; valid are": {"last_batch": "all"},
    "and of 40 examples in batches of 13 the last has one": {
        "batch_size": 13,
        "last_batch": "keep",
    },
    "m is 16; it must divide the 8 examples": {
        **{"batch_size": 16, "last_batch": "keep", "sam": ["m_sam"]}
    },
    "unknown average 'mean'; valid are": {"average": "mean"},
    "average_decay is 1.0; it must be from 0 up to below 1": {"average_decay": 1.0},
    "average_after is 4; it must be from 0 to below epochs": {"average_after": 4, "epochs": 4},
    "average_after is 1 without an average that would take it": {"average_after": 1},
    "vary has average 0.5; it must be a name": {"vary": {"average": ("ema", 0.5)}},
    "vary has learning_rate 'fast'; it must be a number": {"vary": {"learning_rate": ("fast",)}},
    "clip_norm is 0.0": {"clip_norm": 0.0},
    "batch_size is 41; it must be from 1 to 40": {"batch_size": 41},
    "cannot vary 'width'; valid are learning_rate": {"vary": {"width": (1, 2)}},
    "unknown loss 'mse'": {"loss": "mse"},
    "do not fit the loss binary_cross_entropy: targets have shape": {
        "loss": "binary_cross_entropy"
    },
    "momentum is 0.5, but lion takes none": {"momentum": 0.5, "optimizers": [lion]},
    "name is 'a b'": {"name": "a b"},
    "it must be a mean over examples": {"loss": lambda f, y: jnp.square(f[:, 0] - y).sum()},
    "returns (2,) for 16 examples": {"loss": lambda f, y: f.mean(0)},
    "train_size and holdout are of data sets by name": {"train_size": 10},
    "seeds is 0": {"seeds": 0},
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_studies_are_refused_before_anything_is_written(tmp_path, message):
    changes = WRONG[message]
    with pytest.raises(ValueError) as refused:
        studies.run(NETWORK, MINE, **{"out": tmp_path / "out", "batch_size": 10} | changes)
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_wrong_networks_are_refused():
    def wrong(init, apply, message, **settings):
        with pytest.raises(ValueError, match=message):
            studies.run(networks.Network(init, apply), MINE, out="nowhere", **settings)

    good = lambda key: ({"w": jnp.ones((5, 2))}, {})  # noqa: E731
    wrong(lambda key: {"w": 1.0}, lambda p, s, x, train: (x, s), r"must return \(params, stats\)")
    wrong(good, lambda p, s, x, train: (x @ p["w"], {"n": p["w"]}), "of another structure")
    wrong(good, lambda p, s, x, train: ((x, x), s), "it must return one array")
    wide = lambda p, s, x, train: (np.float32([2]) * x @ p["w"], s)  # noqa: E731
    wrong(good, wide, "1 product of the network", compute="bfloat16", batch_size=10)
    wrong(good, lambda p, s, x, train: (x[:, :1] @ p["w"][:1, :1], s), "softmax is constant")


@pytest.mark.slow
def test_measures_of_a_network_that_was_trained_elsewhere():
    params, stats = NETWORK.init(jax.random.key(1))
    names = ["top_eigenvalue", "minimum_sharpness", root_norm]
    batch, key = (INPUTS, CLASSES), jax.random.key(2)
    table = measures.measure(NETWORK, params, stats, batch, names, key=key)
    assert list(table) == ["top_eigenvalue", "minimum_sharpness", "root_norm"]
    alone = measures.minimum_sharpness(NETWORK, params, stats, batch)
    np.testing.assert_allclose(table["minimum_sharpness"].value, alone.value, rtol=1e-6)
    assert table["root_norm"].value == pytest.approx(float(optax.tree.norm(params)))
    assert table["root_norm"].error == pytest.approx(table["root_norm"].value / 2)
    assert pd.DataFrame.from_dict(table, orient="index").shape == (3, 7)
    for wrong, message in (
        ((INPUTS, CLASSES[:5]), "(leading|examples|length)"),
        ((INPUTS, CLASSES.astype(str)), "no array of numbers"),
        ((INPUTS, CLASSES + 5), "labels hold"),
        (INPUTS, "batch is ndarray"),
    ):
        with pytest.raises(ValueError, match=message):
            measures.measure(NETWORK, params, stats, wrong, names, key=key)
    with pytest.raises(ValueError, match="two measures are called root_norm"):
        measures.measure(NETWORK, params, stats, batch, [root_norm] * 2, key=key)
    with pytest.raises(ValueError, match="unknown measure 'trace'"):
        measures.measure(NETWORK, params, stats, batch, ["trace"], key=key)
