"""Runs on inputs that the device does not hold: what is written is what runs on held ones write."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from jaxsharp import studies
from jaxsharp.core import budget, streaming
from jaxsharp.measures import Options, measure
from jaxsharp.networks.batches import whole_batch
from jaxsharp.runs import RunConfig, Settings, claims, directory
from jaxsharp.studies import measuring, sweep
from jaxsharp.studies.workbench import workbench
from tests.tinynets import mlp, tiny_dataset

SETTINGS = Settings(
    **{"epochs": 3, "batch_size": 8, "loss_below": None, "last_batch": "keep", "track_every": 2},
    track="batch_sharpness,directional_sharpness,gradient_norm",
)
TAKEN = ("gradient_norm", "sam_sharpness")
OPTIONS = Options(group_size=7, worst_examples=21)
SMALL = replace(budget(), chunk_bytes=20_000)
STREAMED = replace(SMALL, data_bytes=0)


@pytest.fixture(scope="module")
def bench():
    network = mlp()
    return workbench(tiny_dataset(num=43), "small_mlp")._replace(network=network, trained=network)


@pytest.fixture
def reads(monkeypatch):
    found, read = [], streaming._read
    monkeypatch.setattr(streaming, "_read", lambda *asked: (found.append(asked), read(*asked))[1])
    return found


def run(root, bench, memory, report=lambda progress: None):
    """Train and measure two runs; their directories."""
    configs = [
        RunConfig("tiny", "small_mlp", "sgd", "none", s, SETTINGS).resolved() for s in (0, 1)
    ]
    paths, layout = [root / config.name for config in configs], studies.Layout(1, memory=memory)
    for config, path in zip(configs, paths, strict=True):
        claims.keep_run(path, config)
    sweep.train(configs, paths, bench, save_every=1, layout=layout, options=OPTIONS, report=report)
    measuring.measure(configs, paths, bench, TAKEN, OPTIONS, layout=layout)
    return paths


@pytest.mark.slow
def test_interrupted_and_followed_runs_write_the_same_bytes(tmp_path, bench, reads):
    def interrupt(progress):
        if progress.trained == 1:
            raise KeyboardInterrupt

    held = run(tmp_path / "held", bench, SMALL)
    assert not reads
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "streamed", bench, STREAMED, interrupt)
    for path, other in zip(held, run(tmp_path / "streamed", bench, STREAMED), strict=True):
        for file in ("history.csv", "sharpness.csv"):
            assert (path / file).read_bytes() == (other / file).read_bytes(), file
        ends = [np.load(p / "checkpoints" / "epoch_0003" / "arrays.npz") for p in (path, other)]
        for name in ends[0].files:
            np.testing.assert_array_equal(ends[0][name], ends[1][name])
        history = directory.read_history(path)
        assert np.isfinite(history.iloc[1]).all() and np.isfinite(history["gradient_norm"][1])
    assert reads


# The ways in which measures take examples: all in chunks, linearized and not, one by one, by lot.
WAYS = {
    "minimum_sharpness": {"measure_rtol": 0.3},
    "hessian_trace": {},
    "top_eigenvalue": {"eigenvalue_sample": 0.3},
    "random_perturbation": {"measure_rtol": 0.3},
    "margin": {},
    "sam_sharpness": {"group_size": 7, "worst_examples": 21},
    "asam_sharpness": {"group_size": 7, "measure_rtol": 0.3},
    "fisher_rao_norm": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WAYS)
def test_a_measure_has_the_same_record(name, bench, reads):
    params, stats = bench.network.init(jax.random.key(1))
    taken = [
        measure(
            *(bench.network, params, stats, bench.dataset.train, [name]),
            **{"key": jax.random.key(2), "options": Options(**WAYS[name]), "memory": memory},
        )[name]
        for memory in (SMALL, STREAMED)
    ]
    assert taken[0] == taken[1] and np.isfinite(taken[0].value) and reads


def test_a_measure_of_all_inputs_at_once_is_refused(bench):
    def largest_output(network, params, stats, batch, key):
        return network.evaluate(params, stats, batch[0]).max()

    at, keys = bench.network.init(jax.random.key(1)), {"key": jax.random.key(2)}
    with pytest.warns(UserWarning, match="no largest_output: the inputs do not fit"):
        measure(bench.network, *at, bench.dataset.train, [largest_output], memory=STREAMED, **keys)


def test_a_loss_over_whole_batches_does_not_stream(bench):
    network = bench.network._replace(loss=whole_batch(lambda outputs, _: outputs.mean(), 8))
    whole = bench._replace(network=network, trained=network)
    with pytest.raises(ValueError, match="one over whole batches, and the inputs do not fit"):
        sweep.check_layout(studies.Layout(memory=STREAMED), whole)
    sweep.check_layout(studies.Layout(memory=SMALL), whole)


@pytest.mark.parametrize("layout", [{"devices_per_member": 2}, {}])
def test_devices_that_share_a_batch_and_several_processes_do_not_stream(layout, bench, monkeypatch):
    monkeypatch.setattr(sweep, "member_mesh", lambda *shape: None)
    monkeypatch.setattr("jax.process_count", lambda: 1 if layout else 2)
    named = "devices_per_member" if layout else "processes"
    with pytest.raises(ValueError, match=f"{named} is 2, and the inputs of tiny do not fit"):
        sweep.check_layout(studies.Layout(2, memory=STREAMED, **layout), bench)
    sweep.check_layout(studies.Layout(2, memory=SMALL, **layout), bench)
