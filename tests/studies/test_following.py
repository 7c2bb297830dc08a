"""What is followed along training: numbers, edges, and that training and interruptions see none."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from jax.flatten_util import ravel_pytree

from jaxsharp import studies
from jaxsharp.measures import Options, edges
from jaxsharp.networks.network import Network
from jaxsharp.optimizers.registry import OPTIMIZERS, own_arguments
from jaxsharp.runs import RunConfig, Settings, checkpoint, claims, directory, reading
from jaxsharp.studies import recipes, sweep
from jaxsharp.studies.origins import fingerprint
from jaxsharp.studies.workbench import workbench
from jaxsharp.training import trackers
from jaxsharp.training.descents import Descent, batch_edges_of, eigenvalue_edge
from tests.tinynets import mlp, tiny_dataset

EVERY, SIZE = 2, 32
PLAIN = Settings(epochs=5, batch_size=8, loss_below=None, learning_rate=0.2, momentum=0.5)
NAMES = (*trackers.QUANTITIES, "distance_from_initialization")
TRACKED = replace(PLAIN, track=",".join(NAMES), track_every=EVERY, track_size=SIZE)


@pytest.fixture(scope="module")
def bench():
    network = mlp()
    return workbench(tiny_dataset(num=40), "small_mlp")._replace(network=network, trained=network)


def train(root, bench, settings, optimizer="heavy_ball", *, seeds=2, **rest):
    configs = [
        RunConfig("tiny", "small_mlp", optimizer, "none", seed, settings).resolved()
        for seed in range(seeds)
    ]
    paths = [root / config.name for config in configs]
    for config, path in zip(configs, paths, strict=True):
        claims.keep_run(path, config)
    sweep.train(configs, paths, bench, save_every=1, layout=studies.Layout(1), **rest)
    return configs, paths


@pytest.fixture(scope="module")
def followed(tmp_path_factory, bench):
    return train(tmp_path_factory.mktemp("followed"), bench, TRACKED)


def arrays_of(path):
    with np.load(path / "arrays.npz") as found:
        return {name: found[name] for name in found.files}


@pytest.mark.slow
def test_training_has_the_bits_that_it_has_alone(followed, tmp_path, bench):
    _, paths = followed
    _, alone = train(tmp_path, bench, PLAIN)
    for path, other in zip(paths, alone, strict=True):
        history, plain = directory.read_history(path), directory.read_history(other)
        pd.testing.assert_frame_equal(history[list(plain)], plain, check_exact=True)
        assert list(history)[len(plain.columns) :] == list(trackers.columns_of(NAMES))
        found, own = (arrays_of(p / "checkpoints" / "epoch_0005") for p in (path, other))
        for name, values in own.items():
            np.testing.assert_array_equal(found[name], values)
        assert {name.split(".")[1] for name in set(found) - set(own)} == {"tracked"}


@pytest.mark.slow
def test_every_second_epoch_has_numbers(followed):
    for path in followed[1]:
        history = directory.read_history(path)
        new = history[list(trackers.columns_of(NAMES))]
        due = history["epoch"] % EVERY == 0
        assert new[~due].isna().all(axis=None) and due.sum() == 2
        # Gradient descent with momentum has every edge; the way from the start has no error.
        assert new[due].drop(columns="distance_from_initialization_error").notna().all(axis=None)


@pytest.mark.slow
def test_interrupted_runs_end_with_the_same_bytes(followed, tmp_path, bench):
    def interrupt(progress):
        if progress.trained % 3 == 0:  # before, at and after an epoch that is followed
            raise KeyboardInterrupt

    for _ in range(20):
        try:
            _, paths = train(tmp_path, bench, TRACKED, report=interrupt)
            break
        except KeyboardInterrupt:
            continue
    for path, other in zip(paths, followed[1], strict=True):
        assert (path / "history.csv").read_bytes() == (other / "history.csv").read_bytes()
        found, own = (arrays_of(p / "checkpoints" / "epoch_0005") for p in (path, other))
        assert set(found) == set(own)
        for name, values in own.items():
            np.testing.assert_array_equal(found[name], values)


def state_at(config, path, bench, epoch):
    recipe = recipes.make_recipe(config, bench)
    like = jax.eval_shape(lambda: recipes.beginning(recipe, config, bench))
    return recipe, checkpoint.load(path / "checkpoints" / f"epoch_{epoch:04d}", like)


def dense(bench, params, images, labels):
    flat, unravel = ravel_pytree(params)
    loss = bench.network.frozen_loss({}, labels)
    of_flat = lambda x: loss(unravel(x), (images, labels))  # noqa: E731
    return loss, jax.grad(of_flat)(flat), jax.hessian(of_flat)(flat)


@pytest.mark.slow
def test_the_numbers_are_those_of_the_state(followed, bench):
    configs, paths = followed
    _, state = state_at(configs[0], paths[0], bench, 4)
    row = directory.read_history(paths[0]).iloc[3]
    images, labels = (x[:SIZE] for x in bench.dataset.train)
    loss, gradient, matrix = dense(bench, state.params, images, labels)
    exact = np.linalg.eigvalsh(matrix)[-1]
    for name in ("top_eigenvalue", "preconditioned_eigenvalue"):
        assert abs(row[name] - exact) <= row[f"{name}_error"] + 1e-5 * exact
        np.testing.assert_allclose(row[f"{name}_edge"], 3 / 0.2, rtol=1e-6)
    # Momentum's next update, by the mean gradient.
    step = 0.2 * (0.5 * ravel_pytree(optax.tree.get(state.opt_state, "trace"))[0] + gradient)
    along = step @ matrix @ step / (0.2 * (step @ gradient))
    np.testing.assert_allclose(row["directional_sharpness"], along, rtol=1e-3)
    flat, unravel = ravel_pytree(state.params)
    scale = 2 / (0.2 * row["critical_sharpness"])
    at = lambda c: loss(unravel(flat - c * step), (images, labels))  # noqa: E731
    assert at(0.98 * scale) < at(0.0) < at(1.02 * scale)
    assert 0 < row["critical_sharpness_error"] <= 0.0101 * row["critical_sharpness"]
    for name in ("directional_sharpness_edge", "critical_sharpness_edge"):
        np.testing.assert_allclose(row[name], 2 / 0.2, rtol=1e-6)
    found = edges.batch_sharpness(
        *(loss, state.params, (images, labels)), batch_size=8, key=jax.random.key(9), rtol=0.02
    )
    off = np.hypot(found.stderr, row["batch_sharpness_error"])
    assert abs(found.mean - row["batch_sharpness"]) < 5 * off
    assert 0 < row["batch_sharpness_error"] < 0.2 * row["batch_sharpness"]  # of 100 batches
    np.testing.assert_allclose(row["batch_sharpness_edge"], 1 / 0.2, rtol=1e-6)
    np.testing.assert_allclose(row["batch_sharpness_edge_large"], 3 / 0.2, rtol=1e-6)
    start, _ = bench.network.init(recipes.streams(0).init)
    way = optax.tree.norm(optax.tree.sub(state.params, start))
    np.testing.assert_allclose(row["distance_from_initialization"], way, rtol=1e-5)


@pytest.mark.slow
def test_adam_under_a_schedule(tmp_path, bench):
    """The rate is that of the last step, D that of the state."""
    names = "preconditioned_eigenvalue,top_eigenvalue"
    settings = Settings(epochs=3, batch_size=8, loss_below=None, schedule="linear", track=names)
    (config,), (path,) = train(tmp_path, bench, settings, "adam", seeds=1)
    _, state = state_at(config, path, bench, 3)
    row = directory.read_history(path).iloc[2]
    _, _, matrix = dense(bench, state.params, *bench.dataset.train)
    root = ravel_pytree(edges.adam_preconditioner(state.opt_state))[0] ** -0.5
    exact = np.linalg.eigvalsh(root[:, None] * matrix * root)[-1]
    off = row["preconditioned_eigenvalue_error"] + 1e-4 * exact
    assert abs(row["preconditioned_eigenvalue"] - exact) <= off
    edge = edges.adam_edge(0.001 * (1 - 14 / 15), count=15)
    np.testing.assert_allclose(row["preconditioned_eigenvalue_edge"], edge, rtol=1e-4)
    assert row["top_eigenvalue"] > 0 and math.isnan(row["top_eigenvalue_edge"])
    assert reading.load_end(path, jax.eval_shape(lambda: state), fingerprint(config, bench), 3)


def descent(optimizer, sam="none", clipped=False, **hyper):
    own = dict(own_arguments(OPTIMIZERS[optimizer])) if optimizer else {"learning_rate": 0.1}
    return Descent(optimizer, sam, clipped, own | {"rho": 0.05}), hyper


DECAY = {"weight_decay": jnp.float32(0.1)}
SHRINK = {"decoupled_weight_decay": jnp.float32(0.1)}


@pytest.mark.parametrize(
    ("made", "preconditioned", "expected"),
    [
        (descent("sgd"), False, 20.0),
        (descent("sgd", **DECAY), False, 19.9),
        (descent("heavy_ball", momentum=0.5, **DECAY, **SHRINK), True, 1.5 * 19.9 - 0.1),
        (descent("sgd", clipped=True), False, math.nan),
        (descent("sgd", "sam"), False, edges.sam_edge(0.1, rho=0.05, gradient_norm=0.5)),
        (descent("sgd", "sam", **DECAY), False, math.nan),
        (descent("sgd", "asam"), False, math.nan),
        (descent("heavy_ball", "sam"), False, math.nan),
        (descent("adam"), False, math.nan),
        (descent("adam"), True, 380 * (1 - 0.9**7)),
        (descent("adam", **DECAY), True, math.nan),
        (descent("adam", **SHRINK), True, 378.1 * (1 - 0.9**7)),
        (descent("adam", "sam"), True, math.nan),
        (descent("adagrad"), True, 20.0),
        (descent("adabound"), True, 380.0),
        (descent("adashift"), True, edges.adashift_edge(0.1)),
        (descent("adashift", **SHRINK), True, math.nan),
        (descent(None), False, math.nan),
        (descent(None), True, math.nan),
    ],
)
def test_edges_that_are_not_known_are_nan(made, preconditioned, expected):
    own, hyper = made
    norm = 0.5 if own.needs_gradient else None
    options = {"preconditioned": preconditioned, "gradient_norm": norm}
    found = eigenvalue_edge(own, hyper, 0.1, jnp.int32(7), **options)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_edges_of_batches():
    for made in (descent("adam"), descent("sgd", "sam"), descent("sgd", clipped=True)):
        assert np.isnan(batch_edges_of(*made, 0.1)).all()
    assert np.isnan(batch_edges_of(*descent("sgd", **DECAY), 0.1)).all()
    np.testing.assert_allclose(batch_edges_of(*descent("heavy_ball"), 0.1), (4, 36), rtol=1e-6)


def test_no_edge_where_steps_descend_on_another_loss(bench):
    def plain(settings, network=bench.network):
        config = RunConfig("tiny", "mlp", "heavy_ball", "none", 0, settings)
        recipe = recipes.unchecked_recipe(config, bench)._replace(network=network)
        state = recipes.init_state(recipe, {"learning_rate": 0.1}, {}, {})
        return trackers.Situation(recipe, network, None, state, {}, (), None, None).is_plain

    assert plain(PLAIN) and not plain(replace(PLAIN, label_smoothing=0.1))
    dropping = Network(bench.network.init, lambda params, stats, inputs, train, key: None)
    assert not plain(PLAIN, dropping)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"track": "top_eigenvalu"}, "unknown quantity 'top_eigenvalu'; valid are top_eigenvalue,"),
        ({"track": ","}, "no quantity is named; valid are top_eigenvalue"),
        ({"track_every": 0}, "track_every is 0; it must be from 1 to epochs"),
        ({"track_every": 6}, "track_every is 6; it must be from 1 to epochs"),
        ({"track_size": 0}, "track_size is 0; it must be at least 1"),
        ({"track": None}, "track_every is 2, and nothing is followed; give track"),
    ],
)
def test_wrong_settings(changes, says):
    with pytest.raises(ValueError, match=says):
        replace(TRACKED, **changes).check()


def test_batches_of_a_grid_are_those_of_its_runs():
    """And not of the usual size, which none of them has."""
    settings = replace(TRACKED, batch_size=Settings().batch_size)
    grid = studies.StudyConfig(
        settings=settings, optimizers=("sgd",), vary={"batch_size": (8, SIZE)}
    )
    grid.check()
    for run in grid.members():
        recipes.check_followed(run.settings)
    with pytest.raises(ValueError, match="it must be at least batch_size, 33"):
        recipes.check_followed(replace(settings, batch_size=SIZE + 1))


def test_what_the_data_and_the_network_refuse(bench):
    def made(**changes):
        config = RunConfig(
            "tiny", "mlp", "sgd", "none", 0, replace(TRACKED, momentum=None, **changes)
        )
        recipes.make_recipe(config, bench)

    with pytest.raises(ValueError, match="track_size is 41; it must be from 1 to 40"):
        made(track_size=41)
    with pytest.raises(ValueError, match="track_size is 7; batch_sharpness is of batches"):
        made(track_size=7)
    plain = bench.network

    def apply(params, stats, inputs, train):
        return jnp.tanh(plain.evaluate(params, stats, inputs)) @ jnp.ones((3, 3)), stats

    smooth = plain._replace(apply=apply)
    bench = bench._replace(network=smooth, trained=smooth)
    with pytest.raises(ValueError, match="track has hessian_trace, which cannot be followed: "):
        made(track="hessian_trace")


def test_options_of_measures_reach_what_is_followed(bench):
    config = RunConfig("tiny", "mlp", "sgd", "none", 0, replace(TRACKED, momentum=None))
    options = Options(eigenvalue_tol=1e-3)
    assert recipes.tracking_of(config, bench, options).options == options
    assert recipes.tracking_of(replace(config, settings=PLAIN), bench) is None
