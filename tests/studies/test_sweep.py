"""Groups of runs in their directories: interruption, independence, label noise, measures."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest

from jaxsharp import runs, studies
from jaxsharp.core import budget
from jaxsharp.measures import Options
from jaxsharp.optimizers import OPTIMIZERS
from jaxsharp.runs import SAM, RunConfig, Settings, checkpoint, claims, directory, tables
from jaxsharp.studies import measuring, sweep
from jaxsharp.studies.origins import fingerprint
from jaxsharp.studies.recipes import hyper_parameters, make_recipe, optimizer_factory
from jaxsharp.studies.workbench import labels_of, workbench
from tests.interrupting import until
from tests.tinynets import mlp, tiny_dataset

SETTINGS = Settings(epochs=6, batch_size=5, loss_below=None)
MEASURES = ("minimum_sharpness", "top_eigenvalue", "random_perturbation")
OPTIONS = Options(num_perturbations=4, radius=0.5)


@pytest.fixture(scope="module")
def bench():
    network = mlp()
    return workbench(tiny_dataset(num=40), "small_mlp")._replace(network=network, trained=network)


def members(root, seeds=(0, 1), sam="sam", **changes):
    settings = replace(SETTINGS, **changes)
    configs = [RunConfig("tiny", "small_mlp", "adam", sam, seed, settings) for seed in seeds]
    paths = [root / config.name for config in configs]
    for config, path in zip(configs, paths, strict=True):
        claims.claim_run(path, config)
    return configs, paths


def train(root, bench, *, seeds=(0, 1), save_every=50, report=lambda progress: None, **changes):
    configs, paths = members(root, seeds, **changes)
    sweep.train(
        *(configs, paths, bench),
        save_every=save_every,
        layout=studies.Layout(len(seeds)),
        report=report,
    )
    return configs, paths


def assert_same_end(a, b):
    assert (a / "history.csv").read_bytes() == (b / "history.csv").read_bytes()
    ends = [directory.latest_checkpoint(path) for path in (a, b)]
    assert ends[0].name == ends[1].name
    leaves = [raw_leaves(end) for end in ends]
    assert leaves[0].keys() == leaves[1].keys()
    for name, leaf in leaves[0].items():
        np.testing.assert_array_equal(leaf, leaves[1][name])


def raw_leaves(path):
    with np.load(path / checkpoint.ARRAYS) as leaves:
        return dict(leaves)


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 4])
def test_an_interrupted_group_continues_bit_for_bit(tmp_path, bench, after):
    _, whole = train(tmp_path / "whole", bench)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", bench, save_every=2, report=until(after))
    _, parts = train(tmp_path / "parts", bench, save_every=2)
    for a, b in zip(whole, parts, strict=True):
        assert_same_end(a, b)


@pytest.mark.slow
def test_members_that_stand_at_different_epochs_continue(tmp_path, bench):
    """A crash between the writes of two members."""
    _, whole = train(tmp_path / "whole", bench)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", bench, save_every=2, report=until(4))
    latest = directory.latest_checkpoint(tmp_path / "parts" / whole[1].name)
    assert latest.name == "epoch_0004"
    latest.rename(latest.with_name(".tmp-epoch_0004"))  # as a crash leaves it
    _, parts = train(tmp_path / "parts", bench, save_every=2)
    for a, b in zip(whole, parts, strict=True):
        assert_same_end(a, b)


@pytest.mark.slow
def test_a_member_does_not_depend_on_its_neighbours(tmp_path, bench):
    """Whatever else shares its program (pitfall 37)."""
    _, group = train(tmp_path / "group", bench, seeds=(0, 1, 2))
    _, alone = train(tmp_path / "alone", bench, seeds=(1,))
    assert_same_end(group[1], alone[0])


@pytest.mark.slow
def test_checkpoints_are_written_every_few_epochs_and_at_the_end(tmp_path, bench):
    _, (path,) = train(tmp_path, bench, seeds=(0,), save_every=4)
    assert sorted(p.name for p in (path / "checkpoints").iterdir()) == ["epoch_0004", "epoch_0006"]
    _, (path,) = train(tmp_path / "easy", bench, seeds=(0,), loss_below=1e9)
    assert [p.name for p in (path / "checkpoints").iterdir()] == ["converged"]
    row = tables.row(path)
    assert (row["converged"], row["diverged"], row["epochs"]) == (True, False, 1)


@pytest.mark.slow
def test_a_finished_group_is_not_trained_again(tmp_path, bench):
    train(tmp_path, bench)
    calls = []
    train(tmp_path, bench, report=calls.append)
    assert calls == []


def test_label_noise_is_drawn_for_each_seed(tmp_path, bench):
    configs, _ = members(tmp_path, label_noise=0.5)
    clean, (first, second) = (
        bench.dataset.train.labels,
        (np.asarray(labels_of(c, bench)) for c in configs),
    )
    assert 5 <= np.sum(first != clean) <= 20
    assert np.any(first != second)
    np.testing.assert_array_equal(first, labels_of(configs[0], bench))


@pytest.mark.slow
def test_measures_are_taken_once_and_again_when_their_settings_change(tmp_path, bench):
    (config,), (path,) = train(tmp_path, bench, seeds=(0,))
    taken = []
    measuring.measure(
        [config], [path], bench, MEASURES, OPTIONS, report=lambda name, _: taken.append(name)
    )
    table = runs.read_sharpness(path)
    assert list(table["measure"]) == list(MEASURES) == taken
    assert np.all(table["value"] > 0)
    again = []
    measuring.measure(
        [config], [path], bench, MEASURES, OPTIONS, report=lambda name, _: again.append(name)
    )
    assert again == []
    measuring.measure(
        [config],
        [path],
        bench,
        MEASURES,
        replace(OPTIONS, radius=0.1),
        report=lambda n, _: again.append(n),
    )
    assert again == ["random_perturbation"]
    both = runs.read_sharpness(path)
    pd.testing.assert_frame_equal(both[:3], table)
    (changed,) = both[3:].itertuples()
    assert changed.measure == "random_perturbation" and "radius=0.1" in changed.settings
    assert changed.value < table["value"][2]
    row = tables.row(path)
    assert row["random_perturbation"] == changed.value
    first = dict(zip(table["measure"], table["settings"], strict=True))
    assert tables.row(path, first)["random_perturbation"] == table["value"][2]


@pytest.mark.slow
def test_a_measure_does_not_depend_on_which_others_are_taken(tmp_path, bench):
    (config,), (path,) = train(tmp_path / "a", bench, seeds=(0,))
    measuring.measure([config], [path], bench, MEASURES, OPTIONS)
    (_,), (other,) = train(tmp_path / "b", bench, seeds=(0,))
    measuring.measure([config], [other], bench, MEASURES[::-1][:2], OPTIONS)
    one, two = (runs.read_sharpness(p).set_index("measure")["value"] for p in (path, other))
    for name in MEASURES[1:]:
        assert one[name] == two[name]


@pytest.mark.slow
def test_a_diverged_run_has_rows_without_numbers(tmp_path, bench):
    (config,), (path,) = train(tmp_path, bench, seeds=(0,), learning_rate=1e38)
    measuring.measure([config], [path], bench, MEASURES, OPTIONS)
    row = tables.row(path)
    assert row["diverged"] and not row["converged"]
    assert row["epochs"] == 1
    assert all(pd.isna(row[name]) and pd.isna(row[f"{name}_error"]) for name in MEASURES)
    assert all((row[f"{name}_finished"], row[f"{name}_cost"]) == (False, 0) for name in MEASURES)


@pytest.mark.parametrize("name", ["batch_size", "measure_size"])
def test_more_examples_than_the_data_has_are_refused(bench, name):
    config = RunConfig("tiny", "small_mlp", "sgd", "none", 0, replace(SETTINGS, **{name: 41}))
    with pytest.raises(ValueError, match=f"{name} is 41; it must be from 1 to 40"):
        make_recipe(config, bench)


def test_a_variant_refuses_a_batch_size_before_anything_is_trained(bench):
    config = RunConfig("tiny", "small_mlp", "sgd", "m_sam", 0, replace(SETTINGS, batch_size=20))
    with pytest.raises(ValueError, match="m is 16; it must divide the 20 examples"):
        make_recipe(config, bench)
    make_recipe(replace(config, settings=replace(SETTINGS, batch_size=32)), bench)


@pytest.mark.parametrize("sam", SAM)
def test_the_radius_is_the_variants_own_unless_it_is_given(sam):
    config = RunConfig("tiny", "small_mlp", "sgd", sam, 0, Settings(learning_rate=0.1))
    unsaid, own = (hyper_parameters(c) for c in (config, config.resolved()))
    assert set(unsaid) == {"learning_rate"}
    assert set(own) == ({"learning_rate"} if sam == "none" else {"learning_rate", "rho"})
    params, batch = {"w": jnp.array([1.0, 2.0])}, jnp.ones((16, 1))

    def two_steps(hyper):
        optimizer = optax.with_extra_args_support(
            optimizer_factory(OPTIMIZERS["sgd"], sam)(**hyper)
        )
        grad_fn = lambda p, batch=batch: {"w": p["w"] ** 3 * batch.mean()}  # noqa: E731
        point, state = params, optimizer.init(params)
        for _ in range(2):
            extra = {"grad_fn": grad_fn, "batch": batch}
            updates, state = optimizer.update(grad_fn(point), state, point, **extra)
            point = optax.apply_updates(point, updates)
        return point["w"]

    np.testing.assert_array_equal(two_steps(unsaid), two_steps(own))
    if sam != "none":
        assert np.all(two_steps(own) != two_steps({**own, "rho": 0.9}))


@pytest.mark.slow
@pytest.mark.parametrize("sam", ["look_sam", "momentum_sam"])
def test_the_memory_of_a_variant_continues_bit_for_bit(tmp_path, bench, sam):
    """One epoch is 8 steps, so the interruption falls between two looks of LookSAM."""
    _, (whole,) = train(tmp_path / "whole", bench, seeds=(0,), sam=sam)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", bench, seeds=(0,), sam=sam, report=until(2))
    _, (parts,) = train(tmp_path / "parts", bench, seeds=(0,), sam=sam)
    assert_same_end(whole, parts)


@pytest.mark.slow
def test_measures_see_the_first_examples_alone(tmp_path, bench):
    (config,), (path,) = train(tmp_path / "some", bench, seeds=(0,), measure_size=10)
    measuring.measure([config], [path], bench, MEASURES[:2], OPTIONS)
    train_split = bench.dataset.train
    few = bench.dataset._replace(train=train_split._replace(labels=train_split.labels[:10]))
    few = few._replace(train=few.train._replace(images=train_split.images[:10]))
    small = bench._replace(dataset=few)
    end = measuring.Place(config, path)
    state = measuring.state_at(end, bench, fingerprint(config, bench))
    trained = [(end._replace(config=replace(config, settings=SETTINGS)), state)]
    width = measuring.auto_width(1, 1)
    want = [
        measuring.results(m, bench.measures[m], trained, small, OPTIONS, width, budget())[0][0]
        for m in MEASURES[:2]
    ]
    np.testing.assert_array_equal(runs.read_sharpness(path)["value"], want)
    measuring.measure([config], [path], bench, ("random_perturbation",), OPTIONS)


def test_measuring_needs_a_checkpoint(tmp_path, bench):
    (config,), (path,) = members(tmp_path, seeds=(0,))
    with pytest.raises(runs.RunError, match="is not trained to its end; train the run first"):
        measuring.measure([config], [path], bench, MEASURES, OPTIONS)


@pytest.mark.slow
def test_a_checkpoint_of_another_network_is_refused(tmp_path, bench):
    (config,), (path,) = train(tmp_path, bench, seeds=(0,))
    network = mlp(widths=(5, 3))
    other = bench._replace(network=network, trained=network)
    with pytest.raises(ValueError, match=r"checkpoint .*epoch_0006"):
        measuring.measure([config], [path], other, MEASURES, OPTIONS)


@pytest.mark.slow
def test_a_continued_group_has_the_width_that_it_began_with(tmp_path, bench, monkeypatch):
    asked = []
    monkeypatch.setattr(sweep, "auto_width", lambda num, *_: asked.append(num) or 1)
    configs, paths = members(tmp_path, (0, 1, 2))
    with pytest.raises(KeyboardInterrupt):
        sweep.train(configs, paths, bench, save_every=50, report=until(7))
    assert directory.is_trained(paths[0], SETTINGS.epochs) and not directory.is_trained(paths[2], 6)
    sweep.train(configs, paths, bench, save_every=50)
    assert [num for num in asked if num > 1] == [3, 3]  # the layout is checked with one
